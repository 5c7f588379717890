"""Which option each layer takes, so that errors add up to the least within a budget of costs.

The problem is a multiple-choice knapsack: every layer takes one of its options, each with an error
and a cost. Dynamic programming over discretised costs solves it, as SPDY does for latencies
(Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunedeploy.core.records import Array

BINS = 4096
SMALLEST = 1e-15  # a step where nothing may be spent beyond the cheapest


def allocate(
    errors: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
    budget: float,
    bins: int = BINS,
) -> tuple[int, ...] | None:
    """The option of each layer with the least sum of errors, of costs at most ``budget``.

    Costs count from the cheapest option of each layer, in ``bins`` steps up to the budget, rounded
    up: the choice never costs more than the budget.

    Returns:
        An index for each layer; None where even the cheapest options cost more.

    Example:
        >>> allocate([[0.0, 1.0], [0.0, 9.0]], [[4, 1], [4, 1]], 5.0)
        (1, 0)
    """
    cheapest = [min(each) for each in costs]
    spare = budget - sum(cheapest)
    if spare < 0:
        return None
    step = spare / bins or SMALLEST
    best = np.zeros(bins + 1)  # least error, by the bins that may be spent so far
    taken: list[Array] = []
    for layer, (error, cost) in enumerate(zip(errors, costs, strict=True)):
        rows = np.full((len(error), bins + 1), np.inf)
        for option, (loss, price) in enumerate(zip(error, cost, strict=True)):
            width = _width(price - cheapest[layer], step)
            if width <= bins:
                rows[option, width:] = best[: bins + 1 - width] + loss
        taken.append(rows.argmin(0))
        best = rows.min(0)
    at, chosen = bins, []
    for layer in reversed(range(len(errors))):
        option = int(taken[layer][at])
        chosen.append(option)
        at -= _width(costs[layer][option] - cheapest[layer], step)
    return tuple(reversed(chosen))


def _width(cost: float, step: float) -> int:
    return int(np.ceil(cost / step - 1e-9))
