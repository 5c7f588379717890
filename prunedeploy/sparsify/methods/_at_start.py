"""Pruning before training: rank, choose, perhaps in rounds, then train what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunedeploy.sparsify.run import Kind, MethodReport, MethodSettings, Run, shuffled
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Score

Rounds = Callable[[float], Sequence[float]]


def once(density: float) -> list[float]:
    """One round."""
    return [density]


def prune_first(kind: Kind, score: Score, rounds: Rounds = once) -> Callable[..., MethodReport]:
    """The method that prunes to the densities of ``rounds`` by ``score``, then trains.

    Options: ``batches``, of training data, for scores; ``budget``; ``shuffle``, for other units of
    the same number in each layer.
    """

    def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
        this = Run(trainer, settings, {"batches": 4, "budget": "global", "shuffle": False})
        units = this.units(kind)
        sparsifier = this.sparsifier(units, score, this.options["budget"], this.batches())
        for density in rounds(this.density):
            sparsifier.prune(density)
        if this.options["shuffle"]:
            sparsifier.set_keep(shuffled(sparsifier.keep, settings.seed))
        this.train(held=sparsifier)
        return this.report(sparsifier.masks, sparsifier.keep)

    return run
