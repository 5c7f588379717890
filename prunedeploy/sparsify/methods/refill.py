"""IMP-Refill and IMP-Refill+: whole channels out of a scattered ticket, trained from early weights.

Chen et al., "Coarsening the Granularity", ICML 2022. The sparsity is that of the ticket.
"""

from __future__ import annotations

from functools import partial

from prunedeploy.sparsify.masks import Held
from prunedeploy.sparsify.methods._tickets import OPTIONS, scattered_ticket
from prunedeploy.sparsify.refill import refill
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.trainer import Trainer

PAPER = "Chen et al., ICML 2022"
PLUS = 0.2  # no value is published; this one takes the paper's 32.84 % of VGG-16 to its 46.41 %


def run(trainer: Trainer, settings: MethodSettings, extra: float) -> MethodReport:
    """Options: those of IMP; ``source`` of the ticket, of ``_tickets.SOURCES``.

    ``extra`` is the share of the channels that would go which stays as well.
    """
    this = Run(trainer, settings, {**OPTIONS, "extra": extra})
    units = this.units("channels")
    ticket = scattered_ticket(this)
    masks, keep = refill(trainer.module, units, ticket.sparsifier.masks, this.options["extra"])
    trainer.load_state_dict(ticket.early)
    this.train(held=Held(trainer.module, masks))
    this.settings = MethodSettings(0.0)  # of units of another kind than the ticket's
    return this.report(masks, keep)


METHODS = (
    Method("refill", PAPER, "channels", partial(run, extra=0.0)),
    Method("refill_plus", PAPER, "channels", partial(run, extra=PLUS)),
)
