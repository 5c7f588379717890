"""Early-Bird tickets: prune when the mask that gamma would give has stopped changing.

You et al., "Drawing Early-Bird Tickets", ICLR 2020. Their code compares masks from before epoch 0
on, when every gamma is the same and the mask says nothing; here from after the first epoch.
"""

from __future__ import annotations

from collections import deque

import torch

from prunedeploy.sparsify.budgets import overall
from prunedeploy.sparsify.methods.slimming import penalty
from prunedeploy.sparsify.run import Detection, Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.scores.gamma import gamma
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Keep

OPTIONS = {"distance": 0.1, "queue": 5, "penalty": 1e-4, "latest": 0.5, "every": 1.0}


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: the largest ``distance`` of a ``queue`` of masks; the ``penalty`` on gamma.

    A mask is taken ``every`` epochs; ``latest`` is the share of training at which it is drawn in
    any case.
    """
    this = Run(trainer, settings, OPTIONS)
    units = this.units("channels")
    sparsifier = this.sparsifier(units, gamma)
    trainer.penalty = penalty(trainer.module, this.options["penalty"])
    masks: deque[Keep] = deque(maxlen=this.options["queue"])
    distances: list[float] = []
    every = max(1, round(this.options["every"] * trainer.steps_per_epoch))
    while trainer.step < this.at(this.options["latest"]):
        this.train(min(trainer.step + every, this.at(this.options["latest"])))
        newest = overall(gamma(trainer.module, units), units, this.density)
        farthest = max((distance(newest, each) for each in masks), default=1.0)
        masks.append(newest)
        distances.append(farthest)
        if len(masks) == masks.maxlen and farthest <= this.options["distance"]:
            break
    this.notes.append(f"drawn after {trainer.step / trainer.steps_per_epoch:g} epochs")
    trainer.penalty = None
    sparsifier.prune(this.density)
    this.train(held=sparsifier)
    detection = Detection(
        *("largest distance of masks", tuple(distances), float(this.options["distance"])),
        every / trainer.steps_per_epoch,
    )
    return this.report(sparsifier.masks, sparsifier.keep, detection)


def distance(one: Keep, other: Keep) -> float:
    """The share of units in which two choices differ."""
    differ = torch.cat([one[name] != other[name] for name in one])
    return float(differ.double().mean())


METHODS = (Method("early_bird", "You et al., ICLR 2020", "channels", run),)
