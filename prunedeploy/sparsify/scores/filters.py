"""The L1 norm of filters: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.sparsify.scores.gradients import parameters_of
from prunedeploy.sparsify.scores.members import named, writers
from prunedeploy.sparsify.units import Batches, Scores, Units


@torch.no_grad()
def filters(module: nn.Module, units: Units, batches: Batches = ()) -> Scores:  # noqa: ARG001
    """The sum of |theta| over the rows that write a channel, without biases."""
    values = {name: each.abs() for name, each in parameters_of(module, units).items()}
    return {group.name: named(writers(module, group), "weight").gather(values) for group in units}
