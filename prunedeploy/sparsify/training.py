"""The training of a recipe: the method on a recorded trainer, its weights, curves and record."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.sparsify import curves
from prunedeploy.sparsify.data import Splits
from prunedeploy.sparsify.energy import metered
from prunedeploy.sparsify.network import network
from prunedeploy.sparsify.recipe import Recipe, training_key
from prunedeploy.sparsify.recorded import RecordedTrainer, fingerprint
from prunedeploy.sparsify.row import Cost, Outcome, Trained
from prunedeploy.sparsify.trainer import Data

RECORD = "trained.json"
WEIGHTS = "sparse.pt"
KEPT = (WEIGHTS, "epochs.csv", "curves.png", RECORD)  # the record last: with it all is there


def trained(folder: Path, key: str) -> Trained | None:
    """The training of this key in ``folder``, if it is done.

    Raises:
        UserError: the record is of another version or damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    record = from_json(Trained, file.read_text())
    return record if record.key == key else None


def train(recipe: Recipe, splits: Splits, folder: Path, progress: Callable[[str], None]) -> Trained:
    """Train, or go on, or take what is done; ``folder`` then has the files of ``KEPT``.

    Where another process trains in the folder, what it does is waited for.

    Raises:
        UserError: the method refuses its options or the network.
    """
    key = training_key(recipe, splits.sha256)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, progress):
        if (done := trained(folder, key)) is not None:
            return done
        states = folder / f"states-{key[:16]}"
        states.mkdir(exist_ok=True)
        record = _train(recipe, splits, folder, states, key, progress)
        with atomic_path(folder / RECORD) as file:
            file.write_text(to_json(record))
        for state in states.iterdir():
            state.unlink()
        states.rmdir()
        return record


@contextlib.contextmanager
def _alone(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Alone in ``folder``: the process of a sweep that was killed may be there for a moment yet."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that trains in {folder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _train(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    states: Path,
    key: str,
    progress: Callable[[str], None],
) -> Trained:
    from prunedeploy.sparsify.methods import METHODS, MethodSettings

    method, choice = METHODS[recipe.method.name], recipe.method
    module = network(recipe.network, splits.sample, splits.classes, recipe.seed)
    trainer = RecordedTrainer(
        *(module, splits.train, recipe.train, splits.selection, states, progress)
    )
    with metered(recipe.country) as used:
        report = method.run(trainer, MethodSettings(choice.sparsity, recipe.seed, choice.options))
    right = _right(module, splits.test)
    selected = _right(module, splits.selection)
    outcome = Outcome(
        accuracy=float(right.mean()),
        selection_accuracy=float(selected.mean()) if len(selected) else None,
        tested=len(right),
        right=np.packbits(right).tobytes().hex(),
        weight_sparsity=report.weight_sparsity,
        unit_sparsity=report.unit_sparsity,
        steps=report.steps,
        state_sha256=fingerprint(module),
        notes=report.notes,
        detection=report.detection.values if report.detection else (),
    )
    notes = [used.note] if used.note else []
    with atomic_path(folder / WEIGHTS) as file:
        torch.save(module.state_dict(), file)
    curves.write_csv(folder / "epochs.csv", trainer.epochs)
    title = f"{recipe.network.name}, {choice.name}, sparsity {choice.sparsity:g}"
    if not curves.write_png(folder / "curves.png", trainer.epochs, title, report.detection):
        notes.append("no curves.png: matplotlib is not installed: pip install 'prunedeploy[plot]'")
    if trainer.resumed and recipe.country:
        notes.append("no energy: the training was interrupted, and only its last part was metered")
    cost = Cost(
        seconds=trainer.seconds,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        energy_kwh=None if trainer.resumed else used.energy_kwh,
        emissions_kg=None if trainer.resumed else used.emissions_kg,
        notes=tuple(notes),
    )
    return Trained(key, outcome, cost)


@torch.inference_mode()
def _right(module: nn.Module, data: Data, batch: int = 500) -> NDArray[np.bool_]:
    """Which examples are classified rightly, bool [N]."""
    module.eval()
    right = np.zeros(len(data.labels), bool)
    for start in range(0, len(right), batch):
        chosen = torch.arange(start, min(start + batch, len(right)))
        right[start : start + batch] = module(data.batch(chosen)).argmax(1) == data.labels[chosen]
    return right
