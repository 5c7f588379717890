"""No pruning: the network that all others are compared with, trained with the same schedule."""

from __future__ import annotations

from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Train; the sparsity wanted is not looked at."""
    this = Run(trainer, settings, {})
    this.train()
    return this.report({}, None)


METHODS = (Method("dense", "", "scattered", run),)
