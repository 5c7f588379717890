"""Network slimming: train with an L1 penalty on gamma, cut the small ones, train on.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.scores.gamma import gamma
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``penalty``, and ``retrain``, the share of the learning rates that is repeated."""
    this = Run(trainer, settings, {"penalty": 1e-4, "retrain": 0.5, "budget": "global"})
    sparsifier = this.sparsifier(this.units("channels"), gamma, this.options["budget"])
    trainer.penalty = penalty(trainer.module, this.options["penalty"])
    this.train()
    trainer.penalty = None
    sparsifier.prune(this.density)
    this.go_back(this.options["retrain"])
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


def penalty(module: nn.Module, size: float) -> Callable[[], Tensor]:
    """``size`` times the sum of |gamma| of all BatchNorms.

    Raises:
        UserError: there is none.
    """
    scales = [each.weight for each in module.modules() if isinstance(each, _BatchNorm)]
    if not scales:
        raise UserError("the network has no BatchNorm whose scales could be made small")
    return lambda: size * torch.stack([each.abs().sum() for each in scales]).sum()


METHODS = (Method("slimming", "Liu et al., ICCV 2017", "channels", run),)
