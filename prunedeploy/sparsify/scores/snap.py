"""SNIP for nodes: Verdenius et al., "Pruning via Iterative Ranking of Sensitivity", 2020."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.sparsify.scores.gradients import frozen, loss
from prunedeploy.sparsify.scores.snip import by_gate
from prunedeploy.sparsify.units import Batches, Scores, Units


def snap(module: nn.Module, units: Units, batches: Batches) -> Scores:
    """|dL/dc| / L of the factor c on all that a channel's layers write, before BatchNorm."""
    gradients = by_gate(module, units, batches)
    with frozen(module, batches), torch.no_grad():
        total = torch.stack([loss(module, batch) for batch in batches]).sum()
    return {name: each.abs() / total for name, each in gradients.items()}
