"""One-shot magnitude pruning: train, prune once, train on.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.
"""

from __future__ import annotations

from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``retrain``, the share of the learning rates that is repeated; ``budget``."""
    this = Run(trainer, settings, {"retrain": 0.5, "budget": "global"})
    sparsifier = this.sparsifier(this.units("scattered"), magnitude, this.options["budget"])
    this.train()
    sparsifier.prune(this.density)
    this.go_back(this.options["retrain"])
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


METHODS = (Method("omp", "Han et al., NeurIPS 2015", "scattered", run),)
