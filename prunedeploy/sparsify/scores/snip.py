"""Sensitivity of the loss to a unit: Lee et al., "SNIP", ICLR 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.scores.gradients import Values, gradients, parameters_of
from prunedeploy.sparsify.scores.members import writers
from prunedeploy.sparsify.units import Batches, Scores, Units


def snip(module: nn.Module, units: Units, batches: Batches) -> Scores:
    """|dL/dc| of the factor c of a unit, over the sum of all: |theta g| for a weight."""
    sensitivities = {name: each.abs() for name, each in by_gate(module, units, batches).items()}
    total = torch.stack([each.sum() for each in sensitivities.values()]).sum()
    return {name: each / total for name, each in sensitivities.items()}


def by_gate(module: nn.Module, units: Units, batches: Batches) -> dict[str, Tensor]:
    """dL/dc of the factor c = 1 of every unit."""
    values = times_weights(module, units, gradients(module, units, batches))
    return {group.name: writers(module, group).gather(values) for group in units}


@torch.no_grad()
def times_weights(module: nn.Module, units: Units, values: Values) -> Values:
    """theta * values, by parameter."""
    return {name: each * values[name] for name, each in parameters_of(module, units).items()}
