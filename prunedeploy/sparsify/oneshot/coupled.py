"""Coupled channels: their scores, and what a layer costs once they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.budgets import BUDGETS
from prunedeploy.sparsify.channels import channels
from prunedeploy.sparsify.oneshot.calibrate import Moments, grouped
from prunedeploy.sparsify.oneshot.criteria import output_energy
from prunedeploy.sparsify.oneshot.refit import damped
from prunedeploy.sparsify.oneshot.study import Study
from prunedeploy.sparsify.units import Group, Keep, Masks, Scores, Slices, Units, masks_of


@dataclass(frozen=True)
class Channels:
    """The coupled channels of a network, and how much each is worth keeping."""

    units: Units
    scores: Scores

    def masks(self, share: float, budget: str) -> Masks:
        """The masks where this share of all channels stays, at least one of each group."""
        keep: Keep = BUDGETS[budget](self.scores, self.units, share)
        return masks_of(self.units, keep)


def coupled(looked: Study, input_shape: Sequence[int], method: str) -> Channels:
    """The channels of the network under study.

    A channel's score is the sum, over all layers that read it, of the share of their output's
    energy that goes with it: by "obs" once the layer's other weights have taken over, by "wanda" as
    it is. By "magnitude" it is the mean square of its weights.

    Raises:
        UserError: the network cannot be exported, or has no channel that could go.
    """
    units = channels(looked.dense, input_shape)
    scores = {group.name: _scores(looked, group, method) for group in units}
    if not any(bool(each.any()) for each in scores.values()):
        raise UserError("no layer reads a channel that could be removed: take weights as units")
    return Channels(units, scores)


def _scores(looked: Study, group: Group, method: str) -> Tensor:
    total = torch.zeros(group.count, dtype=torch.float64)
    for member in group.members:
        moments = looked.calibration.get(member.parameter)
        if moments is None or not isinstance(member, Slices):
            continue
        weight = looked.dense.get_parameter(member.parameter).detach().double()
        if method == "magnitude":
            total += member.gather(weight**2, group.count) / weight.square().sum()
        elif member.axis == 1:
            total += _read(weight, member, moments, group.count, exact=method == "obs")
    return total


def _read(weight: Tensor, member: Slices, moments: Moments, count: int, exact: bool) -> Tensor:
    """What a layer that reads the channels loses with each, as a share of its output's energy."""
    groups = moments.mean.shape[0]
    dense, metric = grouped(weight, groups), damped(moments.metric())
    whole = output_energy(dense, metric)
    inverse = torch.linalg.inv(metric) if exact and not moments.diagonal else None
    taps = dense.shape[2] // weight.shape[1]
    losses = torch.zeros(count, dtype=torch.float64)
    for unit in range(count):
        inputs = (member.unit_of == unit).nonzero()[:, 0]
        columns = (inputs[:, None] * taps + torch.arange(taps)).flatten()
        part = dense[:, :, columns]
        inner = metric if inverse is None else inverse
        block = inner[:, columns][:, :, columns]
        losses[unit] = _energy(part, block if inverse is None else torch.linalg.inv(block))
    return losses / whole


def _energy(part: Tensor, block: Tensor) -> float:
    return float(((part @ block) * part).sum())
