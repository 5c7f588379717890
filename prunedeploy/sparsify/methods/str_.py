"""STR: thresholds that are trained with the weights, with the sparsity that was asked for.

Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity", ICML 2020.
"""

from __future__ import annotations

from prunedeploy.sparsify.masks import parameter
from prunedeploy.sparsify.methods._thresholds import OPTIONS, start, train_with
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.soft_threshold import SoftThresholds
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Masks


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: see ``_thresholds``."""
    this = Run(trainer, settings, OPTIONS)
    names = [group.name for group in this.units("scattered")]
    layers = [trainer.module.get_submodule(name.rpartition(".")[0]) for name in names]
    thresholds = SoftThresholds(layers, start(this))
    total = sum(parameter(trainer.module, name).numel() for name in names)

    def sparsity() -> float:
        return 1 - sum(int(each.sum()) for each in thresholds.alive()) / total

    train_with(this, thresholds, sparsity)
    masks: Masks = dict(zip(names, thresholds.alive(), strict=True))
    thresholds.fold()
    return this.report(masks, masks)


METHODS = (Method("str", "Kusupati et al., ICML 2020", "scattered", run),)
