"""Schedules: the share of units that is to stay, as a function of the optimizer steps done.

A schedule gives None at a step at which nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunedeploy.core.errors import UserError

Schedule = Callable[[int], float | None]


def never(step: int) -> float | None:  # noqa: ARG001 - a schedule takes the step
    """Nothing changes: the masks are given."""
    return None


def at_steps(steps: Sequence[int], densities: Sequence[float]) -> Schedule:
    """``densities[i]`` at step ``steps[i]``.

    Example:
        >>> schedule = at_steps([100], [0.1])  # one shot
        >>> schedule(99), schedule(100)
        (None, 0.1)
    """
    table = dict(zip(steps, densities, strict=True))
    return table.get


def cubic(begin: int, end: int, every: int, density: float, initial: float = 1.0) -> Schedule:
    """Gradual: much at first, then less and less, every ``every`` steps from ``begin`` to ``end``.

    Zhu and Gupta, "To prune, or not to prune", 2017, equation 1, for the share that stays.
    """
    return _ramp(begin, end, every, lambda left: density + (initial - density) * left**3)


def linear(begin: int, end: int, every: int, density: float, initial: float = 1.0) -> Schedule:
    """The same share each time, every ``every`` steps from ``begin`` to ``end``."""
    return _ramp(begin, end, every, lambda left: density + (initial - density) * left)


def iterative(begin: int, every: int, density: float, rate: float = 0.2) -> Schedule:
    """A fifth of what is left, every ``every`` steps from ``begin`` on; see ``rounds``."""
    densities = rounds(density, rate)
    return at_steps([begin + every * number for number in range(len(densities))], densities)


def rounds(density: float, rate: float = 0.2) -> list[float]:
    """The densities of iterative pruning: ``rate`` of what is left goes, until ``density``.

    Example:
        >>> [round(each, 3) for each in rounds(0.5)]
        [0.8, 0.64, 0.512, 0.5]
    """
    if not 0 < rate < 1 or not 0 < density <= 1:
        raise UserError("the rate of a round has to be in (0, 1), the density in (0, 1]")
    densities = []
    left = 1 - rate
    while left > density:
        densities.append(left)
        left *= 1 - rate
    return [*densities, density]


def cropit_rounds(density: float, count: int = 6) -> list[float]:
    """The densities of CroPit: half, then each time half of the way to ``density``, and that.

    Rachwan et al., "Winning the Lottery Ahead of Time", ICML 2022, as their code has it. From half
    of the units on there is no way to go in halves: one round.

    Example:
        >>> [round(1 - each, 4) for each in cropit_rounds(0.1, 3)]
        [0.5, 0.7, 0.8, 0.9]
    """
    if density >= 0.5:
        return [density]
    return [*(density + (0.5 - density) * 0.5**number for number in range(count)), density]


def _ramp(begin: int, end: int, every: int, density: Callable[[float], float]) -> Schedule:
    """``density`` of the share of the way that is left."""
    if end <= begin or every < 1:
        raise UserError(f"a schedule from step {begin} to {end} every {every} has no steps")

    def at(step: int) -> float | None:
        if not begin <= step <= end or ((step - begin) % every and step != end):
            return None
        return density(1 - (step - begin) / (end - begin))

    return at
