"""Recipes: a network, data, training, a method and a machine, in a TOML file.

::

    network = "resnet20"
    seed = 0

    [data]
    path = "cifar-10-batches-py"

    [train]
    epochs = 12

    [method]
    name = "snip"
    sparsity = 0.95

    [deploy]
    target = "host"
    batches = [1, 8, 64]

The same recipe gives the same weights on the same kind of processor. ``run`` may be killed and
called again: it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prunedeploy
from prunedeploy import models, targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.runtimes import registry
from prunedeploy.sparsify.settings import Option, check_keys, read_table
from prunedeploy.sparsify.trainer import TrainSettings

if TYPE_CHECKING:
    from prunedeploy.engines.request import Progress
    from prunedeploy.sparsify.row import Row

ROW_FORMAT = 1  # of what a row's key stands for; with prunedeploy's version it is part of the key


@dataclass(frozen=True)
class NetworkChoice:
    """A network of ``prunedeploy.models``, and the checkpoint that it begins from, if any."""

    name: str
    checkpoint: str = ""


@dataclass(frozen=True)
class DataSource:
    """Where the data are; the fields are the arguments of ``prunedeploy.sparsify.data.load``."""

    path: str
    test: str = ""
    hold_out: int | None = None
    limit: int = 0
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class MethodChoice:
    """A method of ``prunedeploy.sparsify.methods``, the share it removes, and its own options."""

    name: str
    sparsity: float = 0.0
    options: dict[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UserError(f"sparsity should be from 0 to below 1, found {self.sparsity:g}")


@dataclass(frozen=True)
class Deploy:
    """The machine that the network is to be fast on, and what is measured there.

    ``remote`` is the machine's address for SSH, where it is not this one; without one the latency
    there is predicted. ``resource`` is the name of a Ray resource: a node that has it measures.
    With ``predict`` nothing is measured anywhere: latencies are those of the cost models.
    """

    target: str = "host"
    runtimes: tuple[str, ...] = ("ort", "sparse")
    batches: tuple[int, ...] = (1, 8, 64)
    threads: int = 1
    rounds: int = 50
    tune: str = "quick"
    remote: str = ""
    resource: str = ""
    predict: bool = False

    def __post_init__(self) -> None:
        target = targets.by_name(self.target)
        for name in self.runtimes:
            registry.by_name(name)
        if self.tune not in ("quick", "full", "none"):
            raise UserError(f"tune should be quick, full or none, found {self.tune!r}")
        if not self.runtimes or not self.batches or min(*self.batches, self.rounds) < 1:
            raise UserError("name a runtime, and batches and rounds from 1")
        if self.threads < 0:
            raise UserError(f"threads should be from 0, found {self.threads}")
        if self.predict and (self.remote or target.name == "host"):
            raise UserError(
                "predict is for a target with figures to predict from, such as x86-avx512, without"
                " remote"
            )
        if self.remote and target.name == "host":
            raise UserError("host is this machine: name what remote is with target")


@dataclass(frozen=True)
class Recipe:
    """One training and, where ``deploy`` says so, one machine.

    ``country`` is the ISO code by which emissions are estimated (see ``energy``); empty for none.
    """

    network: NetworkChoice
    data: DataSource
    train: TrainSettings
    method: MethodChoice
    deploy: Deploy | None = None
    country: str = ""

    @property
    def seed(self) -> int:
        """Of the initial weights, the order of the data and the method."""
        return self.train.seed

    @property
    def source(self) -> DataSource:
        """The data, normalised as a checkpoint's network was trained where the recipe says not."""
        if self.data.mean or not self.network.checkpoint:
            return self.data
        known = models.by_name(self.network.name)
        return replace(self.data, mean=known.mean, std=known.std)


TABLES = ("network", "seed", "country", "data", "train", "method", "deploy")


def read(path: str | Path) -> Recipe:
    """The recipe in a file.

    Raises:
        UserError: unreadable, or a mistake, in one line that names the key.
    """
    return from_table(read_toml(Path(path)), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read the recipe {path}: {reason}") from None


def from_table(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a TOML file's tables state; paths are relative to the current folder.

    Raises:
        UserError: a mistake, in one line that names the key.
    """
    check_keys(table, dict.fromkeys(TABLES), where)
    for name in ("network", "data", "train", "method"):
        if name not in table:
            raise UserError(f"{where}: {name} is missing")
    for name in ("method", "deploy"):
        if isinstance(table.get(name), list):
            raise UserError(f"{where}: several tables [[{name}]] are a grid: use prunedeploy sweep")
    top = {key: table[key] for key in ("seed", "country") if key in table}
    general = read_table(_General, top, where)
    network = table["network"]
    network = {"name": network} if isinstance(network, str) else network
    train = read_table(TrainSettings, table["train"], f"{where}, [train]", seed=general.seed)
    deploy = table.get("deploy")
    recipe = Recipe(
        read_table(NetworkChoice, network, f"{where}, [network]"),
        read_table(DataSource, table["data"], f"{where}, [data]"),
        train,
        read_table(MethodChoice, table["method"], f"{where}, [method]"),
        None if deploy is None else read_table(Deploy, deploy, f"{where}, [deploy]"),
        general.country,
    )
    _check(recipe, where)
    return recipe


@dataclass(frozen=True)
class _General:
    seed: int = 0
    country: str = ""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed should be from 0, found {self.seed}")


def _check(recipe: Recipe, where: str) -> None:
    """Refuse what the names of networks and methods tell beforehand."""
    from prunedeploy.sparsify.methods import METHODS

    try:
        models.by_name(recipe.network.name)
    except UserError as error:
        raise UserError(f"{where}, [network]: {error}") from None
    checkpoint = recipe.network.checkpoint
    if checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"{where}, [network]: checkpoint {checkpoint} is no file")
    if recipe.method.name not in METHODS:
        known = ", ".join(sorted(METHODS))
        name = recipe.method.name
        raise UserError(f"{where}, [method]: no method is called {name!r}: choose from {known}")


def training_key(recipe: Recipe, data_sha256: str) -> str:
    """The hash of all that the trained weights depend on: what deploys is not in it."""
    plain = asdict(recipe)
    del plain["data"], plain["deploy"], plain["country"]
    if recipe.network.checkpoint:
        plain["network"]["checkpoint"] = sha256(Path(recipe.network.checkpoint))
    known = {"data": data_sha256, "version": prunedeploy.__version__, "format": ROW_FORMAT}
    return _hash({**plain, **known})


def row_key(recipe: Recipe, data_sha256: str) -> str:
    """The hash of all that a row depends on but the machine's speed."""
    deploy = None if recipe.deploy is None else asdict(recipe.deploy)
    return _hash({"training": training_key(recipe, data_sha256), "deploy": deploy})


def _hash(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file that ``read`` takes; what is as it is by default is left out."""
    from prunedeploy.sparsify.recipe_text import text_of

    return text_of(recipe)


def run(
    path: str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> Row:
    """Train what a recipe says, make it small, build engines of it and measure them.

    Args:
        path: the recipe, a TOML file.
        output: a folder for everything; ``<recipe>.sparsified`` in the current folder when None.
            A run that was interrupted goes on in it.
        progress: called with one line of text for each step.

    Returns:
        The row: accuracies, sparsities, what it cost, latencies. The folder has it as
        ``row.json``, with ``sparse.pt`` (plain weights with zeros), ``epochs.csv``,
        ``curves.png``, and the shrunken model with its engines.

    Raises:
        UserError: a mistake in the recipe, the data or the folder.

    Example:
        >>> from prunedeploy.sparsify import recipe
        >>> recipe.run("recipe.toml").outcome.weight_sparsity  # doctest: +SKIP
        0.95
    """
    from prunedeploy.sparsify.carry_out import carry_out

    return carry_out(read(path), Path(output or folder_of(path)), progress)


def folder_of(path: str | Path) -> Path:
    """The folder in which a recipe is carried out where none is named."""
    return Path(f"{Path(path).stem}.sparsified")
