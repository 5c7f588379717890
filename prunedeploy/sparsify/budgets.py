"""Budgets: which units stay, given their scores and the share that is to stay of all of them.

Every budget keeps at least one unit of each group, since a layer without any would cut the network
in two, and otherwise keeps exactly ``round(density * units.count)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.units import Elements, Group, Keep, Scores, Units

Budget = Callable[[Scores, Units, float], Keep]


def kept_count(count: int, density: float) -> int:
    """Units that stay of ``count``: at least one.

    Raises:
        UserError: the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise UserError(f"the share of units that stay is {density:g}: it has to be in (0, 1]")
    return max(1, round(density * count))


def overall(scores: Scores, units: Units, density: float, min_share: float = 0.0) -> Keep:
    """The best of all groups together; ``min_share`` of each group stays anyway."""
    groups = list(units)
    total = max(kept_count(units.count, density), len(groups))
    keep = {
        group.name: best(scores[group.name], max(1, math.floor(min_share * group.count)))
        for group in groups
    }
    left = total - sum(int(each.sum()) for each in keep.values())
    if left > 0:
        rest = torch.cat(
            [_without(scores[group.name], keep[group.name]).double() for group in groups]
        )
        chosen = torch.split(best(rest, left), [group.count for group in groups])
        keep = {
            group.name: keep[group.name] | each for group, each in zip(groups, chosen, strict=True)
        }
    return keep


def uniform(scores: Scores, units: Units, density: float) -> Keep:
    """The same share of every group."""
    return {
        group.name: best(scores[group.name], kept_count(group.count, density)) for group in units
    }


def erk(scores: Scores, units: Units, density: float) -> Keep:
    """Erdős-Rényi-Kernel (Evci et al., "Rigging the Lottery", ICML 2020).

    The density of a layer is in proportion to the sum over the product of its weight's sizes, at
    most 1; a group of channels goes by the first weight that it lies in.
    """
    counts = {group.name: group.count for group in units}
    shares = {group.name: _erdos_renyi(group) for group in units}
    wanted = max(kept_count(units.count, density), len(counts))
    quotas = _quotas(counts, shares, wanted)
    return {name: best(scores[name], quota) for name, quota in quotas.items()}


def lamp(scores: Scores, units: Units, density: float) -> Keep:
    """The best of all groups together, each score relative to those of its group that stay longer.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (LAMP), ICLR 2021:
    s^2 over the sum of the s^2 that are not smaller. Scores below zero stay as they are, and last.
    """
    return overall({name: _lamp(each) for name, each in scores.items()}, units, density)


def _lamp(scores: Tensor) -> Tensor:
    order = torch.sort(scores, descending=True, stable=True).indices
    squares = scores.double().clamp_min(0)[order].square()
    relative = torch.where(squares > 0, squares / squares.cumsum(0), 0.0)
    placed = torch.empty_like(relative).scatter_(0, order, relative)
    return torch.where(scores < 0, scores.double(), placed)


def n_of_m(scores: Scores, units: Units, density: float, n: int = 2, m: int = 4) -> Keep:
    """The best ``n`` of every ``m`` weights along a layer's inputs, which GPUs skip; n/m stays.

    A rest of fewer than ``m`` inputs keeps its best ``n``.

    Raises:
        UserError: the units are no single weights, or the density is another.
    """
    if abs(density - n / m) > 1e-9:
        raise UserError(f"{n} of {m} weights are a share of {n / m:g}, not {density:g}")
    return {group.name: _n_of_m(scores[group.name], _elements(group), n, m) for group in units}


def best(scores: Tensor, count: int) -> Tensor:
    """True for the ``count`` largest; of equal ones the first, so that runs can be repeated."""
    keep = torch.zeros(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, descending=True, stable=True).indices[:count]] = True
    return keep


BUDGETS: Mapping[str, Budget] = {
    "global": overall,
    "uniform": uniform,
    "erk": erk,
    "floor": partial(overall, min_share=0.1),
    "lamp": lamp,
    "2:4": partial(n_of_m, n=2, m=4),
}


def _without(scores: Tensor, taken: Tensor) -> Tensor:
    return scores.masked_fill(taken, -math.inf)


def _erdos_renyi(group: Group) -> float:
    for member in group.members:
        if len(member.shape) > 1:
            return sum(member.shape) / math.prod(member.shape)
    return 1.0


def _quotas(counts: Mapping[str, int], shares: Mapping[str, float], wanted: int) -> dict[str, int]:
    """``wanted`` units over groups by share and size, none over its count, none at zero."""
    full: set[str] = set()
    while True:
        open_ = {name: shares[name] * counts[name] for name in counts if name not in full}
        left = wanted - sum(counts[name] for name in full)
        scale = left / sum(open_.values()) if open_ else 0.0
        over = {name for name, size in open_.items() if scale * size > counts[name]}
        if not over:
            break
        full |= over
    exact = {name: counts[name] if name in full else scale * open_[name] for name in counts}
    quotas = {name: max(1, math.floor(size)) for name, size in exact.items()}
    order = sorted(counts, key=lambda name: quotas[name] - exact[name])
    while (missing := wanted - sum(quotas.values())) != 0:  # what rounding left
        step = 1 if missing > 0 else -1
        fits = [name for name in order if 1 <= quotas[name] + step <= counts[name]]
        for name in (fits if step > 0 else fits[::-1])[: abs(missing)]:
            quotas[name] += step
    return quotas


def _elements(group: Group) -> Elements:
    member = group.members[0]
    if not isinstance(member, Elements):
        raise UserError("n of m is a choice among single weights: take them as units")
    return member


def _n_of_m(scores: Tensor, member: Elements, n: int, m: int) -> Tensor:
    along = scores.reshape(member.shape).movedim(1, -1)
    inputs = along.shape[-1]
    padded = torch.nn.functional.pad(along, (0, -inputs % m), value=-math.inf)
    runs = padded.reshape(*padded.shape[:-1], -1, m)
    order = torch.sort(runs, dim=-1, descending=True, stable=True).indices
    keep = torch.zeros_like(runs, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return keep.reshape(padded.shape)[..., :inputs].movedim(-1, 1).reshape(-1)
