"""When every method prunes and to what, against sequences computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from sparse_nets import Small, hand_coupled, stripes

from prunedeploy.sparsify.methods import METHODS, MethodReport, MethodSettings
from prunedeploy.sparsify.methods._thresholds import OPTIONS, Correction
from prunedeploy.sparsify.methods.imp import densities
from prunedeploy.sparsify.run import Run
from prunedeploy.sparsify.sparsifier import Sparsifier
from prunedeploy.sparsify.trainer import Trainer, TrainSettings

Sequence = list[tuple[int, float]]  # the step that was done, the share that is to stay
CROPIT = [0.5, 0.3, 0.2, 0.15, 0.125, 0.1125, 0.1]  # half of the way to a tenth each time


def trainer() -> Trainer:
    """Twenty steps in ten epochs."""
    return Trainer(Small(), stripes(64), TrainSettings(epochs=10, batch=32, lr=0.05))


@pytest.fixture
def pruned(monkeypatch: pytest.MonkeyPatch) -> Sequence:
    """The steps and densities at which a sparsifier prunes; steps are those of its trainer."""
    seen: Sequence = []
    prune, train = Sparsifier.prune, Trainer.run
    trainers: list[Trainer] = []

    def watched(self: Trainer, *of: Any) -> None:
        trainers[:] = [self]
        train(self, *of)

    def noted(self: Sparsifier, density: float) -> None:
        step = trainers[0].step if trainers else 0
        inside = self.step > 0 and trainers[0].module.training  # the step counts when it is done
        seen.append((step + inside, density))
        prune(self, density)

    monkeypatch.setattr("prunedeploy.sparsify.run.channels", hand_coupled)
    monkeypatch.setattr(Trainer, "run", watched)
    monkeypatch.setattr(Sparsifier, "prune", noted)
    return seen


def carried_out(name: str, sparsity: float = 0.9, **options: Any) -> MethodReport:
    return METHODS[name].run(trainer(), MethodSettings(sparsity, options=options))


def at(step: int, *shares: float) -> Sequence:
    return [(step, each) for each in shares]


@pytest.mark.parametrize(
    ("name", "options", "expected", "steps"),
    [
        # half of the learning rates once more
        *((name, {}, at(20, 0.1), 30) for name in ("omp", "slimming", "efficient_convnets")),
        ("omp", {"retrain": 0.25}, at(20, 0.1), 25),
        *((name, {}, at(0, 0.1), 20) for name in ("random_u", "random_s", "snip", "snap")),
        *((name, {}, at(0, 0.1), 20) for name in ("grasp", "crop_u", "crop_s")),
        *((name, {}, at(0, *CROPIT), 20) for name in ("cropit_u", "cropit_s")),
        # no epoch's change is below 0, so the latest time counts; the first is 1, and below 2
        ("earlycrop_u", {"threshold": 0.0}, at(10, *CROPIT), 20),
        ("earlycrop_s", {"threshold": 0.0, "latest": 0.2}, at(4, 0.1), 20),
        ("earlycrop_s", {"threshold": 2.0}, at(2, 0.1), 20),
        # any two masks are near enough; none is nearer than 0
        ("early_bird", {"queue": 2, "distance": 1.0}, at(4, 0.1), 20),
        ("early_bird", {"queue": 2, "distance": -1.0, "latest": 0.3}, at(6, 0.1), 20),
        # a step for 5 % of training, 19 to the end, and 19 for each round and the ticket
        ("ltr", {"rounds": 2}, at(20, 0.5, 0.3, 0.1), 77),
        ("refill", {"source": "omp"}, at(20, 0.1), 39),
        ("refill_plus", {"rounds": 1}, at(20, 0.1), 39),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_when_and_to_what(
    name: str, options: dict[str, Any], expected: Sequence, steps: int, pruned: Sequence
) -> None:
    report = carried_out(name, **options)
    assert [step for step, _ in pruned] == [step for step, _ in expected]
    assert [share for _, share in pruned] == pytest.approx([share for _, share in expected])
    assert report.steps == steps


def test_rounds_of_iterative_pruning(pruned: Sequence) -> None:
    report = carried_out("imp", 0.5)
    assert [step for step, _ in pruned] == [20] * 4
    assert [share for _, share in pruned] == pytest.approx([0.8, 0.64, 0.512, 0.5])
    assert report.steps == 1 + 19 + 3 * 19 + 19
    run = Run(trainer(), MethodSettings(0.875), {"rounds": 3, "rate": 0.2})
    assert densities(run) == pytest.approx([0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # 0.1 + 0.9 (1 - k/2)^3 from 20 % to 70 % of 20 steps
        ({"times": 2}, [(4, 1.0), (9, 0.2125), (14, 0.1)]),
        ({"times": 2, "schedule": "linear"}, [(4, 1.0), (9, 0.55), (14, 0.1)]),
        ({"schedule": "one-shot", "begin": 0.5}, [(10, 0.1)]),
        ({"times": 1, "begin": 0.0, "end": 1.0}, [(0, 1.0), (20, 0.1)]),
    ],
)
def test_gradual(options: dict[str, Any], expected: Sequence, pruned: Sequence) -> None:
    carried_out("gradual", **options)
    assert [step for step, _ in pruned] == [step for step, _ in expected]
    assert [share for _, share in pruned] == pytest.approx([share for _, share in expected])


def test_gradual_in_fifths(pruned: Sequence) -> None:
    carried_out("gradual", 0.5, schedule="iterative")
    expected = [(4, 0.8), (7, 0.64), (10, 0.512), (13, 0.5)]  # every third of ten steps
    assert [step for step, _ in pruned] == [step for step, _ in expected]
    assert [share for _, share in pruned] == pytest.approx([share for _, share in expected])


def test_gates_go_in_equal_parts(pruned: Sequence) -> None:
    carried_out("gate_decorators", 0.8, rounds=4)
    # from 40 % to 80 % of training, a quarter of the sparsity each time
    assert [step for step, _ in pruned] == [10, 12, 14, 16]
    assert [share for _, share in pruned] == pytest.approx([0.8, 0.6, 0.4, 0.2])


class Solved:
    """Stands in for thresholds: notes what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def solve(self, sparsity: Any, low: float, high: float) -> float:
        self.asked.append((low, high))
        return low


def test_corrections_of_trained_thresholds() -> None:
    run = Run(trainer(), MethodSettings(0.9), {**OPTIONS, "times": 2})
    solved = Solved()
    correction = Correction(run, solved, lambda: 0.0)  # type: ignore[arg-type]
    by_step = {}
    for step in range(1, 21):
        solved.asked = []
        correction(step)
        if solved.asked:
            (by_step[step],) = solved.asked
    # at least 0.9 (1 - (1 - k/2)^3) from 10 % to 60 % of 20 steps, at most 0.9; then just that
    lows = {step: low for step, (low, _) in by_step.items()}
    assert lows == pytest.approx({2: 0.0, 7: 0.7875, 12: 0.9, 15: 0.9, 20: 0.9})
    assert {high for _, high in by_step.values()} == {0.9}
