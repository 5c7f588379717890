"""The knapsack over layers, against trying every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunedeploy.sparsify.oneshot.allocation import allocate


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_every_combination(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = [list(map(float, random.integers(1, 20, 4))) for _ in range(5)]
    errors = [list(random.random(4)) for _ in range(5)]
    least, most = sum(map(min, costs)), sum(map(max, costs))
    for budget in (least, (least + most) / 2, most):
        picked = allocate(errors, costs, budget, bins=int(budget - least) or 1)
        assert picked is not None
        assert sum(c[n] for c, n in zip(costs, picked, strict=True)) <= budget
        best = min(
            sum(e[n] for e, n in zip(errors, each, strict=True))
            for each in itertools.product(range(4), repeat=5)
            if sum(c[n] for c, n in zip(costs, each, strict=True)) <= budget
        )
        assert sum(e[n] for e, n in zip(errors, picked, strict=True)) == pytest.approx(best)


def test_nothing_fits() -> None:
    assert allocate([[0.0, 1.0]], [[4.0, 3.0]], 2.0) is None
