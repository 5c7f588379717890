"""Scores of single weights, from the weights and what their layer reads: larger is kept longer.

Every criterion takes a layer's weight as float64 [groups, rows, columns] and its ``Moments``, and
returns scores of that shape. ``wanda`` and ``obs`` are shares of the layer's output energy, so that
the weights of all layers can be ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunedeploy.sparsify.budgets import best
from prunedeploy.sparsify.oneshot.calibrate import Moments
from prunedeploy.sparsify.oneshot.refit import DIRECT, damped

Criterion = Callable[[Tensor, Moments], Tensor]

FIRST = 0.6  # density that the first round of ``obs`` leaves: later rounds look closer
SHRINKING = 0.8  # share of the weights that each further round leaves
LAST = 0.01  # density at which the rest is ranked without a further round


def magnitude(dense: Tensor, _: Moments) -> Tensor:
    """The weight's size."""
    return dense.abs()


def wanda(dense: Tensor, moments: Moments) -> Tensor:
    """What the output loses without the weight, all others left as they are.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda),
    ICLR 2024, squared; where a shift is free the input's variance takes the place of its energy.
    """
    metric = moments.metric()
    return dense**2 * metric.diagonal(dim1=1, dim2=2)[:, None, :] / output_energy(dense, metric)


def obs(dense: Tensor, moments: Moments) -> Tensor:
    """What the output loses without the weight once the others have taken over.

    Optimal Brain Surgeon (Hassibi and Stork, NeurIPS 1992): w² / [H⁻¹]jj. Weights are removed in
    rounds, across all rows and a fifth of those left at a time, and the rest is refitted exactly
    after each, where Frantar and Alistarh ("Optimal Brain Compression", NeurIPS 2022) remove one at
    a time. A weight's score is what its removal cost in its round. Layers of more than ``DIRECT``
    columns have one round.
    """
    metric = moments.metric()
    whole = output_energy(dense, metric)
    if moments.diagonal:
        return wanda(dense, moments)
    return torch.stack([_rounds(*pair) for pair in zip(dense, damped(metric), strict=True)]) / whole


def output_energy(dense: Tensor, metric: Tensor) -> float:
    """The sum of wᵀ H w over all rows; 1 where it is zero."""
    return float(((dense @ metric) * dense).sum()) or 1.0


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude, "wanda": wanda, "obs": obs}


def _rounds(dense: Tensor, metric: Tensor) -> Tensor:
    """The cost at removal [rows, columns] of every weight of one group."""
    costs: Tensor = dense**2 / torch.linalg.inv_ex(metric).inverse.diagonal()
    if dense.shape[1] > DIRECT:
        return costs
    kept = torch.ones_like(dense, dtype=torch.bool)
    floor, goal = 0.0, int(FIRST * dense.numel())
    while goal > max(LAST * dense.numel(), 1):
        gone = ~best_of(costs.masked_fill(~kept, -torch.inf), goal) & kept
        costs[gone] = costs[gone].clamp_min(floor)
        floor = float(costs[gone].max()) if bool(gone.any()) else floor
        kept &= ~gone
        goal = int(goal * SHRINKING)
        costs = torch.where(kept, _costs(dense, kept, metric), costs)
    return torch.where(kept, costs.clamp_min(floor), costs)


def best_of(values: Tensor, count: int) -> Tensor:
    """True for the ``count`` largest of ``values``, in their shape."""
    return best(values.flatten(), count).reshape(values.shape)


def _costs(dense: Tensor, kept: Tensor, metric: Tensor) -> Tensor:
    """What each kept weight costs, the rest of its row refitted: w² / [H[S, S]⁻¹]jj."""
    pull = (dense * ~kept) @ metric
    costs = torch.zeros_like(dense)
    for row, mask in enumerate(kept):
        support = mask.nonzero()[:, 0]
        if len(support):
            factor = torch.linalg.cholesky(metric[support][:, support])
            inverse = torch.cholesky_inverse(factor)
            fitted = dense[row, support] + inverse @ pull[row, support]
            costs[row, support] = fitted**2 / inverse.diagonal()
    return costs
