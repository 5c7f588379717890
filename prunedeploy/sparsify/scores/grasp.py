"""What preserves the flow of gradients: Wang et al., "Picking Winning Tickets" (GraSP), ICLR 2020.

The paper removes the weights with the largest -theta * Hg. Public copies of it differ: one keeps
those, another keeps the largest of the absolute value, which is CroP.
"""

from __future__ import annotations

from torch import nn

from prunedeploy.sparsify.scores.gradients import gradient_flow
from prunedeploy.sparsify.scores.members import writers
from prunedeploy.sparsify.scores.snip import times_weights
from prunedeploy.sparsify.units import Batches, Scores, Units

TEMPERATURE = 200.0  # of the paper: logits of a network without training are small anyway


def grasp(
    module: nn.Module, units: Units, batches: Batches, temperature: float = TEMPERATURE
) -> Scores:
    """theta * Hg, summed over a unit, with its sign."""
    _, products = gradient_flow(module, units, batches, temperature)
    values = times_weights(module, units, products)
    return {group.name: writers(module, group).gather(values) for group in units}
