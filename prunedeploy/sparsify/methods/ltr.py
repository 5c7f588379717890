"""Lottery ticket rewinding in the few rounds that EarlyCroP's comparison gives it.

Frankle et al., 2020, as run by Rachwan et al., ICML 2022: the densities of CroPit.
"""

from __future__ import annotations

from prunedeploy.sparsify.rewind import find_ticket
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.schedules import cropit_rounds
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.trainer import Trainer


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``rewind``, the share of training gone back to; ``rounds`` before the last."""
    this = Run(trainer, settings, {"rewind": 0.05, "rounds": 6})
    sparsifier = this.sparsifier(this.units("scattered"), magnitude)
    densities = cropit_rounds(this.density, this.options["rounds"])
    ticket = find_ticket(this, sparsifier, densities, this.options["rewind"])
    trainer.load_state_dict(ticket.early)
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


METHODS = (Method("ltr", "Frankle et al., ICML 2020", "scattered", run),)
