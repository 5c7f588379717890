"""Every method, killed after each epoch in turn, gives the bits of a run that nobody disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_nets import Small, hand_coupled, stripes

from prunedeploy.sparsify.methods import METHODS, MethodReport, MethodSettings
from prunedeploy.sparsify.recorded import RecordedTrainer, fingerprint
from prunedeploy.sparsify.sparsifier import Sparsifier
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings

SETTINGS = TrainSettings(epochs=4, batch=16, lr=0.05, augment="flip-crop")  # of two steps each
OPTIONS: dict[str, dict[str, Any]] = {  # few trainings
    "gate_decorators": {"rounds": 2},
    "imp": {"rounds": 2},
    "ltr": {"rounds": 1},
    "refill": {"rounds": 2},
    "refill_plus": {"rounds": 2},
    "regroup": {"rounds": 2},
    "ticket": {"source": "snip"},
}
# one for each thing that has a state beside the weights: masks, a penalty, gates, thresholds, ...
QUICK = ("dense", "gradual", "early_bird", "gate_decorators", "imp", "str", "str_bn")
MOST = 40  # attempts, of which each should bring one epoch


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunedeploy.sparsify.run.channels", hand_coupled)


def part(data: Data, of: slice) -> Data:
    return Data(data.inputs[of], data.labels[of], data.mean, data.std)


def trainer(folder: Path | None, killed: bool = False) -> RecordedTrainer:
    """One that is killed, if so, at the end of its second epoch, before that is kept."""
    data = stripes(40)
    done = 0

    def told(_: str) -> None:
        nonlocal done
        done += 1
        if killed and done == 2:
            raise Killed

    training, selection = part(data, slice(32)), part(data, slice(32, 40))
    return RecordedTrainer(Small(), training, SETTINGS, selection, folder, told)


def carried_out(name: str, this: RecordedTrainer) -> MethodReport:
    sparsity = 0.0 if name == "dense" else 0.7
    return METHODS[name].run(this, MethodSettings(sparsity, options=OPTIONS.get(name, {})))


def killed_in_turn(name: str, folder: Path) -> tuple[RecordedTrainer, MethodReport, int]:
    """The attempt that came to its end, and how many did not."""
    for attempt in range(MOST):
        this = trainer(folder, killed=True)
        try:
            return this, carried_out(name, this), attempt
        except Killed:
            continue
    raise AssertionError(f"{name} does not get on")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in sorted(METHODS)
    ],
)
def test_killed_after_each_epoch_in_turn(name: str, tmp_path: Path) -> None:
    whole = trainer(None)
    report = carried_out(name, whole)
    again, resumed, kills = killed_in_turn(name, tmp_path)
    assert kills == len(whole.epochs) - 1  # each attempt went on where the one before was
    assert again.resumed
    assert fingerprint(again.module) == fingerprint(whole.module)
    assert again.epochs == whole.epochs
    assert resumed.masks.keys() == report.masks.keys()
    assert all(torch.equal(mask, report.masks[key]) for key, mask in resumed.masks.items())
    assert (resumed.steps, resumed.notes) == (report.steps, report.notes)
    assert (resumed.weight_sparsity, resumed.unit_sparsity, resumed.detection) == (
        *(report.weight_sparsity, report.unit_sparsity),
        report.detection,
    )


def without_momentum(self: Trainer, state: Mapping[str, Any]) -> None:
    self.module.load_state_dict(state["module"])
    self.step = state["step"]


def without_masks(self: Sparsifier, state: Mapping[str, Any]) -> None:
    self.step = state["step"]


@pytest.mark.parametrize(
    ("name", "owner", "broken"),
    [("dense", Trainer, without_momentum), ("gradual", Sparsifier, without_masks)],
)
def test_a_state_that_is_not_whole_is_noticed(
    name: str, owner: type[Any], broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twins of going on: what is left out shows in the bits."""
    whole = trainer(None)
    carried_out(name, whole)
    monkeypatch.setattr(owner, "load_state_dict", broken)
    again, _, _ = killed_in_turn(name, tmp_path)
    assert fingerprint(again.module) != fingerprint(whole.module)
