"""Filters with the smallest L1 norms of each layer go, once, after training.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
"""

from __future__ import annotations

from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.scores.filters import filters
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``retrain``, the share of the learning rates that is repeated; ``budget``."""
    this = Run(trainer, settings, {"retrain": 0.5, "budget": "uniform"})
    sparsifier = this.sparsifier(this.units("channels"), filters, this.options["budget"])
    this.train()
    sparsifier.prune(this.density)
    this.go_back(this.options["retrain"])
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


METHODS = (Method("efficient_convnets", "Li et al., ICLR 2017", "channels", run),)
