"""What changes the flow of gradients: Rachwan et al., "Winning the Lottery Ahead of Time", 2022."""

from __future__ import annotations

from torch import nn

from prunedeploy.sparsify.scores.gradients import gradient_flow
from prunedeploy.sparsify.scores.members import writers
from prunedeploy.sparsify.scores.snip import times_weights
from prunedeploy.sparsify.units import Batches, Scores, Slices, Units


def crop(module: nn.Module, units: Units, batches: Batches) -> Scores:
    """|theta Hg| for weights and blocks, |d(g g)/dc| / 2 for channels.

    The factor c of a channel also scales its own gradients: d(g g)/dc = 2 sum(g g + theta Hg) over
    what its layers write.
    """
    g, products = gradient_flow(module, units, batches)
    values = times_weights(module, units, products)
    own = {name: values[name] + g[name].square() for name in values}
    scores = {}
    for group in units:
        channels = isinstance(group.members[0], Slices)
        scores[group.name] = writers(module, group).gather(own if channels else values).abs()
    return scores
