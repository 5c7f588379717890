"""EarlyCroP: CroP at the time at which training leaves its rich phase.

Rachwan et al., ICML 2022. Their code trains the pruned network for a whole schedule more; here the
schedule goes on, so that every method but the iterative ones has as many steps as dense training.
"""

from __future__ import annotations

import math
from functools import partial

from prunedeploy.sparsify.detect import Drift
from prunedeploy.sparsify.methods.crop import PAPER
from prunedeploy.sparsify.run import (
    Detection,
    Kind,
    Method,
    MethodReport,
    MethodSettings,
    Run,
    shuffled,
)
from prunedeploy.sparsify.schedules import cropit_rounds
from prunedeploy.sparsify.scores.crop import crop
from prunedeploy.sparsify.trainer import Trainer

OPTIONS = {"threshold": None, "latest": 0.5, "batches": 4, "budget": "global", "shuffle": False}


def run(trainer: Trainer, settings: MethodSettings, kind: Kind) -> MethodReport:
    """Options: ``threshold`` of the change of an epoch, by default the share of units that stays.

    ``latest`` is the share of training at which is pruned in any case; the others are those of
    methods that prune first. Weights are pruned in the rounds of CroPit, channels at once.
    """
    this = Run(trainer, settings, OPTIONS)
    units = this.units(kind)
    drift = train_until_slow(this)
    sparsifier = this.sparsifier(units, crop, this.options["budget"], this.batches())
    for density in cropit_rounds(this.density) if kind == "scattered" else [this.density]:
        sparsifier.prune(density)
    if this.options["shuffle"]:
        sparsifier.set_keep(shuffled(sparsifier.keep, settings.seed))
    this.train(held=sparsifier)
    detection = Detection("change in an epoch", tuple(drift.changes), limit(this))
    return this.report(sparsifier.masks, sparsifier.keep, detection)


def limit(run: Run) -> float:
    """The change of an epoch below which training has left its rich phase."""
    threshold = run.options["threshold"]
    return float(run.density if threshold is None else threshold)


def train_until_slow(run: Run) -> Drift:
    """Train by epochs until the weights move slowly; adds a note."""
    drift, trainer = Drift(run.trainer.module), run.trainer
    threshold = limit(run)
    latest = run.at(run.options["latest"])
    change = math.inf  # nothing is known before the first epoch
    while trainer.step < latest and change >= threshold:
        run.train(min(trainer.step + trainer.steps_per_epoch, latest))
        change = drift.update()
    epochs = trainer.step / trainer.steps_per_epoch
    why = "the change fell below" if change < threshold else "at the latest, the change was above"
    run.notes.append(f"pruned after {epochs:g} epochs: {why} {threshold:.3g}")
    return drift


METHODS = (
    Method("earlycrop_u", PAPER, "scattered", partial(run, kind="scattered")),
    Method("earlycrop_s", PAPER, "channels", partial(run, kind="channels")),
)
