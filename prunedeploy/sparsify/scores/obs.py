"""What a layer's output loses: Optimal Brain Surgeon, as one shot has it."""

from __future__ import annotations

from torch import nn

from prunedeploy.sparsify.oneshot.study import study
from prunedeploy.sparsify.scores.gradients import frozen
from prunedeploy.sparsify.units import Batches, Scores, Units


def obs(module: nn.Module, units: Units, batches: Batches) -> Scores:
    """The share of its layer's output energy that a weight's removal costs (``oneshot.criteria``).

    Units are scattered weights, those of all layers can be ranked together. Labels are not used.
    """
    layers = {group.name.rpartition(".")[0] for group in units}
    with frozen(module, batches):
        inputs = [each for each, _ in batches]
        looked = study(module, inputs, "obs", scope=lambda name, _: name in layers)
    return {group.name: group.gather(looked.scores) for group in units}
