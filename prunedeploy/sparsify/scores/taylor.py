"""The loss without a unit, to first order: Molchanov et al., 2017; You et al., "Gate Decorator".

(You et al., NeurIPS 2019: a factor behind each BatchNorm, and its score summed over the batches.)
"""

from __future__ import annotations

from torch import nn

from prunedeploy.sparsify.scores.gradients import gradients, required
from prunedeploy.sparsify.scores.members import gates
from prunedeploy.sparsify.scores.snip import times_weights
from prunedeploy.sparsify.units import Batches, Scores, Units


def taylor(module: nn.Module, units: Units, batches: Batches) -> Scores:
    """|c dL/dc| summed over the batches; c acts behind BatchNorm where there is one."""
    required(batches)
    scores: Scores = {}
    for batch in batches:
        values = times_weights(module, units, gradients(module, units, [batch]))
        for group in units:
            terms = gates(module, group).gather(values).abs()
            scores[group.name] = scores[group.name] + terms if group.name in scores else terms
    return scores
