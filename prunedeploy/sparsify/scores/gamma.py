"""The scale of BatchNorm: Liu et al., "Learning Efficient ConvNets through Network Slimming"."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.scores.gradients import parameters_of
from prunedeploy.sparsify.scores.members import named, scales
from prunedeploy.sparsify.units import Batches, Scores, Units


@torch.no_grad()
def gamma(module: nn.Module, units: Units, batches: Batches = ()) -> Scores:  # noqa: ARG001
    """The mean of |gamma| over the BatchNorms on a channel.

    Raises:
        UserError: there is none on a group of channels.
    """
    values = {name: each.abs() for name, each in parameters_of(module, units).items()}
    scores = {}
    for group in units:
        norms = scales(module, group)
        if norms is None:
            raise UserError(f"no BatchNorm scales the channels of {group.name}: take another score")
        weights = named(norms, "weight")
        scores[group.name] = weights.gather(values) / len(weights.members)
    return scores
