"""Gradual pruning while training, with any score, budget and schedule, of weights or channels.

Zhu and Gupta, "To prune, or not to prune", 2017, with magnitude and the cubic schedule. That each
of the three may be another, and that channels are ranked like weights, is the thesis of the report
on STR-BN (Kusupati, "Adapting Unstructured Sparsity Techniques for Structured Sparsity").
"""

from __future__ import annotations

from collections.abc import Callable

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.budgets import BUDGETS
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run, choose
from prunedeploy.sparsify.schedules import Schedule, at_steps, cubic, iterative, linear, rounds
from prunedeploy.sparsify.scores import SCORES
from prunedeploy.sparsify.sparsifier import Sparsifier
from prunedeploy.sparsify.trainer import Trainer

OPTIONS = {
    "units": "scattered",
    "score": "magnitude",
    "budget": "global",
    "schedule": "cubic",
    "begin": 0.2,
    "end": 0.7,
    "times": 20,
    "batches": 4,
}


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: ``units``, ``score``, ``budget``, ``schedule`` by name; ``begin`` and ``end``.

    The last two are shares of training, ``times`` is how often is pruned in between; "one-shot"
    prunes at ``begin``, "iterative" a fifth of what is left each time.
    """
    this = Run(trainer, settings, OPTIONS)
    sparsifier = Sparsifier(
        trainer.module,
        this.units(this.options["units"]),
        choose(SCORES, this.options["score"], "score"),
        _schedule(this),
        choose(BUDGETS, this.options["budget"], "budget"),
        this.batches(),
    )
    this.train(held=sparsifier)
    return this.report(sparsifier.masks, sparsifier.keep)


def _schedule(run: Run) -> Schedule:
    begin, end = run.at(run.options["begin"]), run.at(run.options["end"])
    if not 0 <= begin < end <= run.trainer.steps:
        raise UserError("the options begin and end have to be shares of training, in order")
    every = max(1, (end - begin) // run.options["times"])
    table: dict[str, Callable[[], Schedule]] = {
        "cubic": lambda: cubic(begin, end, every, run.density),
        "linear": lambda: linear(begin, end, every, run.density),
        "iterative": lambda: _iterative(begin, end, run.density),
        "one-shot": lambda: at_steps([begin], [run.density]),
    }
    schedule: Schedule = choose(table, run.options["schedule"], "schedule")()
    return schedule


def _iterative(begin: int, end: int, density: float) -> Schedule:
    """As often as it takes, from ``begin`` to ``end``."""
    count = len(rounds(density))
    return iterative(begin, max(1, (end - begin) // max(1, count - 1)), density)


METHODS = (Method("gradual", "Zhu and Gupta, 2017", "scattered", run),)
