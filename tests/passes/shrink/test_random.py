"""Random networks of all operators, with dead channels, constants and dead readers.

Whatever they hold, their outputs never move, and nothing is left to cut on a second run (the
runner sees to that).
"""

from __future__ import annotations

import random

import pytest
from generators import GENERATORS, grow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunedeploy.graph import model as models
from prunedeploy.passes import ShrinkChannels, run
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

# float64, relative to the range of the output: rounding alone
TOLERANCE = 1e-10


def test_every_operator_of_the_table_is_grown() -> None:
    assert set(GENERATORS) == set(OPERATORS)


def check(choose: random.Random, seed: int, focus: str | None = None) -> bool:
    """Grow, shrink, compare in float64; whether anything was cut."""
    model = grow(choose, focus)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=seed)
    before = Evaluator(model).run(feeds)
    (report,) = run(model, (ShrinkChannels(),), feeds)
    difference = verify.compare(before, Evaluator(model).run(feeds), tolerance=TOLERANCE)
    assert difference.passed, difference
    return report.result.changed


@pytest.mark.parametrize("operator", GENERATORS)
def test_around_each_operator_outputs_never_move_and_channels_go(operator: str) -> None:
    cut = [check(random.Random(seed), seed, operator) for seed in range(6)]
    assert any(cut)


@pytest.mark.slow
@settings(
    max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(st.randoms(use_true_random=False), st.integers(0, 99))
def test_outputs_never_move(choose: random.Random, seed: int) -> None:
    check(choose, seed)
