"""Iterative magnitude pruning with rewinding.

Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.sparsify.rewind import find_ticket
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.schedules import rounds
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.trainer import Trainer

OPTIONS = {"rewind": 0.05, "rate": 0.2, "rounds": None}


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``rewind``, the share of training gone back to; ``rate`` of weights that go a round.

    ``rounds`` states their number instead: the rate follows.
    """
    this = Run(trainer, settings, OPTIONS)
    sparsifier = this.sparsifier(this.units("scattered"), magnitude)
    ticket = find_ticket(this, sparsifier, densities(this), this.options["rewind"])
    trainer.load_state_dict(ticket.early)
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


def densities(run: Run) -> Sequence[float]:
    """Of the rounds that the options state."""
    count = run.options["rounds"]
    if count is None:
        return rounds(run.density, run.options["rate"])
    return [run.density ** (number / count) for number in range(1, count + 1)]


METHODS = (Method("imp", "Frankle et al., ICML 2020", "scattered", run),)
