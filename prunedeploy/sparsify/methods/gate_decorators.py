"""Gate decorators: tick, in which gates alone are trained and ranked, and tock, all are trained.

You et al., "Gate Decorator: Global Filter Pruning Method for Accelerating Deep CNNs", NeurIPS 2019.
A tenth of each group stays; the gates of a residual sum are ranked by their sum.
"""

from __future__ import annotations

from functools import partial

from prunedeploy.sparsify.budgets import overall
from prunedeploy.sparsify.gates import Gates, gated_norms
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.sparsifier import Sparsifier
from prunedeploy.sparsify.trainer import Trainer

OPTIONS = {"begin": 0.4, "end": 0.8, "rounds": 8, "tick": 0.2, "penalty": 1e-3, "min_share": 0.1}


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: shares of training from ``begin`` to ``end`` in which is pruned in ``rounds``.

    ``tick`` is the share of a round in which gates alone are trained, ``penalty`` that on the gates
    in the rest, ``min_share`` the share of each group that stays, where the sparsity allows it.
    """
    this = Run(trainer, settings, OPTIONS)
    units = this.units("channels")
    gated_norms(trainer.module)  # refused now, not after 40 % of the training
    this.train(this.at(this.options["begin"]))
    gates = Gates(trainer.module)
    gates.join(trainer.optimizer)
    min_share = min(this.options["min_share"], this.density)
    sparsifier = this.sparsifier(
        units, lambda _, units, __: gates.scores(units), partial(overall, min_share=min_share)
    )
    count = this.options["rounds"]
    for number in range(count):
        _round(this, gates, sparsifier, number)
        sparsifier.prune(1 - settings.sparsity * (number + 1) / count)
    trainer.penalty = None
    trainer.drop_last_group()
    gates.fold()
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


def _round(run: Run, gates: Gates, sparsifier: Sparsifier, number: int) -> None:
    """Tock, then tick, so that what is pruned next was ranked last."""
    trainer, options = run.trainer, run.options
    begin, end = run.at(options["begin"]), run.at(options["end"])
    until = begin + (end - begin) * (number + 1) // options["rounds"]
    tick = max(1, round(options["tick"] * (until - trainer.step)))
    trainer.penalty = lambda: options["penalty"] * gates.penalty()
    run.train(until - tick, sparsifier)
    trainer.penalty = None
    frozen = {
        id(each): each for group in trainer.optimizer.param_groups[:-1] for each in group["params"]
    }
    for each in frozen.values():
        each.requires_grad_(False)
    listener = gates.listen(trainer.optimizer)
    run.train(until, sparsifier)
    listener.remove()
    for each in frozen.values():
        each.requires_grad_(True)


METHODS = (Method("gate_decorators", "You et al., NeurIPS 2019", "channels", run),)
