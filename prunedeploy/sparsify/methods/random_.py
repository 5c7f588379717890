"""Random masks before training: the floor of every comparison."""

from __future__ import annotations

from functools import partial

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.run import Kind, Method, MethodReport, MethodSettings
from prunedeploy.sparsify.scores.random import random
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings, kind: Kind) -> MethodReport:
    """Options: as of all methods that prune first."""
    return prune_first(kind, partial(random, seed=settings.seed))(trainer, settings)


METHODS = (
    Method("random_u", "", "scattered", partial(run, kind="scattered")),
    Method("random_s", "", "channels", partial(run, kind="channels")),
)
