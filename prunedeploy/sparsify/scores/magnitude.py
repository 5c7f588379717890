"""The size of weights: Han et al., "Learning both Weights and Connections", NeurIPS 2015."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.sparsify.scores.gradients import parameters_of
from prunedeploy.sparsify.units import Batches, Scores, Units


@torch.no_grad()
def magnitude(module: nn.Module, units: Units, batches: Batches = ()) -> Scores:  # noqa: ARG001
    """The mean of |theta| over all that a unit has, so that large units do not win by size."""
    values = {name: each.abs() for name, each in parameters_of(module, units).items()}
    ones = {name: torch.ones_like(each) for name, each in values.items()}
    return {group.name: group.gather(values) / group.gather(ones) for group in units}
