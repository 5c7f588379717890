"""Refilling: the channels of a scattered mask that hold most of it become whole again.

Chen et al., "Coarsening the Granularity: Towards Structurally Sparse Lottery Tickets", ICML 2022,
algorithms 1 and 2. The paper's number of channels, ceil(s * c_out * n), is a slip; meant is
ceil(density * c_out), which their code takes, with one channel more at random where scores are
equal. Their code ranks by the number of weights left unless told otherwise, and its options l1 and
l2 do not work; the paper ranks by the L1 norm, as here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.budgets import best
from prunedeploy.sparsify.scores.members import named, writers
from prunedeploy.sparsify.units import Keep, Masks, Slices, Units, masks_of


def refilled_rows(weight: Tensor, mask: Tensor, extra: float = 0.0) -> Tensor:
    """Which output channels [C] of a layer are made whole; the others go.

    Args:
        weight: trained, [C, ...].
        mask: the scattered mask, of its shape.
        extra: the share of the channels that would go which stay as well (Refill+).
    """
    count = len(weight)
    density = float(mask.double().mean())
    kept = math.ceil(round(count * (density + (1 - density) * extra), 9))
    norms = (weight.detach().abs() * mask).flatten(1).sum(1)
    return best(norms, max(1, kept))


def refill(module: nn.Module, units: Units, masks: Masks, extra: float = 0.0) -> tuple[Masks, Keep]:
    """The masks of whole channels made of scattered ``masks``, and which units stay.

    A channel that one layer alone writes goes with all that belongs to it. Channels of residual
    sums, which several layers write, differ from layer to layer: there the rows are masked, which
    shrink cannot remove, as in the paper's own networks.
    """
    parameters = dict(module.named_parameters())
    rows = {
        name: refilled_rows(parameters[name], mask, extra)
        for name, mask in masks.items()
        if mask.dim() > 2  # as in the paper, linear layers stay whole
    }
    keep: Keep = {}
    for group in units:
        written = named(writers(module, group), "weight").members
        first = written[0]
        alone = len(written) == 1 and isinstance(first, Slices) and first.parameter in rows
        if alone and isinstance(first, Slices):
            keep[group.name] = first.gather(rows[first.parameter].float(), group.count) > 0
        else:
            keep[group.name] = torch.ones(group.count, dtype=torch.bool)
    filled = masks_of(units, keep)
    for name, each in rows.items():
        shape = parameters[name].shape
        whole = each.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        filled[name] = filled[name] & whole if name in filled else whole.clone()
    return filled, keep
