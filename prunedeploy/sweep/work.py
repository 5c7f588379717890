"""The parts of a sweep's work, as functions that any process on any machine can carry out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.carry_out import splits_of
from prunedeploy.sparsify.data import Splits
from prunedeploy.sparsify.recipe import Recipe
from prunedeploy.sparsify.row import Deployed, Trained
from prunedeploy.sparsify.training import KEPT, train


@dataclass(frozen=True)
class Task:
    """A training, or a measurement of one, of a row.

    ``key`` is that of the training or of the row. ``folder`` is where the training keeps its files.
    """

    kind: Literal["train", "measure"]
    key: str
    recipe: Recipe
    data_sha256: str
    folder: Path
    sample: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        method = self.recipe.method
        share = f" {method.sparsity:g}" if method.sparsity else ""
        target = f" on {self.recipe.deploy.target}" if self.recipe.deploy else ""
        what = target if self.kind == "measure" else ""
        return f"{self.recipe.network.name} {method.name}{share} seed {self.recipe.seed}{what}"


@dataclass(frozen=True)
class Failure:
    """A task that gave nothing, and why, in one line."""

    name: str
    reason: str


Files = dict[str, bytes]
Result = Trained | Deployed | Failure
Done = Callable[[Task, Result], None]
Engine = Callable[[Sequence[Task], Done], None]  # calls ``Done`` for each task, in any order


def train_in(task: Task, folder: Path, splits: Splits | None = None) -> Trained:
    """Train in ``folder``, which has the states of an earlier try where there was one.

    Raises:
        UserError: the data are no longer those that the sweep began with, or the recipe's mistakes.
    """
    import torch

    torch.set_num_threads(task.recipe.train.threads)
    taken = splits or splits_of(task.recipe.source)
    if taken.sha256 != task.data_sha256:
        raise UserError(f"{task.recipe.data.path} has changed meanwhile: start the sweep again")
    return train(task.recipe, taken, folder, lambda _: None)


def measure(task: Task, weights: Path) -> Deployed:
    """Deploy and measure, in a folder that is gone afterwards."""
    from prunedeploy.sparsify.deploy import deploy  # trainings need nothing of it

    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        return deploy(task.recipe, weights, task.sample, Path(name), lambda _: None)


def files_of(folder: Path) -> Files:
    """What a training leaves, by name."""
    return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}


def check_version(version: str) -> None:
    """Refuse to compute with another version than the one that the rows are to be of."""
    if prunedeploy.__version__ != version:
        raise UserError(
            f"a node has prunedeploy {prunedeploy.__version__}, the sweep is of {version}: "
            "install the same everywhere"
        )
