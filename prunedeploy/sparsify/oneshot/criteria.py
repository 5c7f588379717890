"""Scores of single weights, from the weights and what their layer reads: larger is kept longer.

Every criterion takes a layer's weight as float64 [groups, rows, columns] and its ``Moments``, and
returns scores of that shape. ``wanda`` and ``obs`` are shares of the layer's output energy, so that
the weights of all layers can be ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunedeploy.sparsify.oneshot.calibrate import Moments
from prunedeploy.sparsify.oneshot.refit import DIRECT, damped, refit_rows

Criterion = Callable[[Tensor, Moments], Tensor]

SHRINKING = 0.8  # share of the weights that each round of ``obs`` leaves
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
    rounds, a fifth of those left at a time and across all rows, and the rest is refitted exactly
    after each, where Frantar and Alistarh ("Optimal Brain Compression", NeurIPS 2022) remove one at
    a time. A weight's score is what its removal cost in its round. Layers of more than ``DIRECT``
    columns have one round.
    """
    metric = moments.metric()
    whole = output_energy(dense, metric)
    if moments.diagonal:
        return wanda(dense, moments)
    return torch.stack(
        [_rounds(*pair) for pair in zip(dense, damped(metric), strict=True)]
    ) / whole


def output_energy(dense: Tensor, metric: Tensor) -> float:
    """The sum of wᵀ H w over all rows; 1 where it is zero."""
    return float(((dense @ metric) * dense).sum()) or 1.0


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude, "wanda": wanda, "obs": obs}


def _rounds(dense: Tensor, metric: Tensor) -> Tensor:
    """The cost at removal [rows, columns] of every weight of one group."""
    inverse = torch.linalg.inv_ex(metric).inverse.diagonal()
    costs = dense**2 / inverse
    if dense.shape[1] > DIRECT:
        return costs
    kept = torch.ones_like(dense, dtype=torch.bool)
    floor, left = 0.0, dense.numel()
    while left > max(LAST * dense.numel(), 1):
        goal = int(left * SHRINKING)
        order = costs.masked_fill(~kept, torch.inf).flatten().argsort()
        gone = order[: left - goal]
        costs.view(-1)[gone] = costs.view(-1)[gone].clamp_min(floor)
        floor = float(costs.view(-1)[gone].max())
        kept.view(-1)[gone] = False
        left = goal
        costs = torch.where(kept, _costs(dense, kept, metric), costs)
    return torch.where(kept, costs.clamp_min(floor), costs)


def _costs(dense: Tensor, kept: Tensor, metric: Tensor) -> Tensor:
    """What each kept weight costs, the rest of its row refitted: w² / [H[S, S]⁻¹]jj."""
    fitted = refit_rows(dense, kept, metric)
    costs = torch.zeros_like(dense)
    for row, mask in enumerate(kept):
        support = mask.nonzero()[:, 0]
        if len(support):
            factor = torch.linalg.cholesky(metric[support][:, support])
            inverse = torch.cholesky_inverse(factor).diagonal()
            costs[row, support] = fitted[row, support] ** 2 / inverse
    return costs
