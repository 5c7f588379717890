"""Schedules against sequences computed by hand."""

from __future__ import annotations

import pytest

from prunedeploy import UserError
from prunedeploy.sparsify.schedules import (
    Schedule,
    at_steps,
    cropit_rounds,
    cubic,
    iterative,
    linear,
    never,
    rounds,
)


def changes(schedule: Schedule, until: int = 40) -> dict[int, float]:
    found = {step: schedule(step) for step in range(until)}
    return {step: density for step, density in found.items() if density is not None}


def test_cubic_of_zhu_and_gupta() -> None:
    # sparsity 0.9 (1 - (1 - k/4)^3): 0, 0.5203125, 0.7875, 0.8859375, 0.9
    schedule = changes(cubic(10, 30, 5, 0.1))
    assert schedule == pytest.approx({10: 1, 15: 0.4796875, 20: 0.2125, 25: 0.1140625, 30: 0.1})
    assert list(changes(cubic(10, 30, 7, 0.1))) == [10, 17, 24, 30]  # the end is met anyway
    assert changes(cubic(0, 2, 1, 0.1, initial=0.5))[1] == pytest.approx(0.1 + 0.4 / 8)


def test_linear() -> None:
    assert changes(linear(0, 20, 10, 0.2)) == pytest.approx({0: 1, 10: 0.6, 20: 0.2})


def test_one_shot_and_never() -> None:
    assert changes(at_steps([7], [0.25])) == {7: 0.25}
    assert changes(never) == {}


def test_iterative_takes_a_fifth_each_time() -> None:
    assert rounds(0.5) == pytest.approx([0.8, 0.64, 0.512, 0.5])
    assert len(rounds(0.05)) == 14
    assert rounds(0.9) == [0.9]
    assert changes(iterative(4, 3, 0.6)) == pytest.approx({4: 0.8, 7: 0.64, 10: 0.6})


def test_cropit() -> None:
    # limit - (limit - 0.5) / 2^i, then limit
    expected = [0.5, 0.725, 0.8375, 0.89375, 0.921875, 0.9359375, 0.95]
    assert [1 - density for density in cropit_rounds(0.05)] == pytest.approx(expected)
    assert cropit_rounds(0.6) == [0.6]


@pytest.mark.parametrize("wrong", [(5, 5, 1), (0, 10, 0)])
def test_schedules_without_steps(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(UserError):
        cubic(*wrong, 0.1)
