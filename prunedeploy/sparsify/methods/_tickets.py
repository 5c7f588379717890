"""Where a scattered mask comes from: the sources of the tickets that other forms are made of.

Of a source that prunes before training the ticket is trained from the first weights; of the others
from those of an early step, as in iterative magnitude pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prunedeploy.sparsify.methods.imp import OPTIONS as OPTIONS_OF_IMP
from prunedeploy.sparsify.methods.imp import densities
from prunedeploy.sparsify.rewind import Ticket, find_ticket
from prunedeploy.sparsify.run import Run, choose
from prunedeploy.sparsify.scores.crop import crop
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.scores.obs import obs
from prunedeploy.sparsify.scores.random import random
from prunedeploy.sparsify.scores.snip import snip
from prunedeploy.sparsify.units import Score

OPTIONS: Mapping[str, Any] = {**OPTIONS_OF_IMP, "source": "imp", "batches": 4}


def scattered_ticket(run: Run) -> Ticket:
    """The ticket that the options state: ``source``, and those of iterative magnitude pruning."""
    source: Callable[[Run], Ticket] = choose(SOURCES, run.options["source"], "source of a ticket")
    return source(run)


def _after_training(run: Run, score: Score, shares: Sequence[float]) -> Ticket:
    """Masks of trained weights, in one round or several."""
    sparsifier = run.sparsifier(run.units("scattered"), score, batches=run.batches())
    return find_ticket(run, sparsifier, shares, run.options["rewind"])


def _before_training(run: Run, score: Score) -> Ticket:
    """Masks of the first weights."""
    sparsifier = run.sparsifier(run.units("scattered"), score, batches=run.batches())
    early = run.trainer.state_dict()
    sparsifier.prune(run.density)
    return Ticket(sparsifier, early)


SOURCES: Mapping[str, Callable[[Run], Ticket]] = {
    "imp": lambda run: _after_training(run, magnitude, densities(run)),
    "omp": lambda run: _after_training(run, magnitude, [run.density]),
    "obs": lambda run: _after_training(run, obs, [run.density]),
    "snip": lambda run: _before_training(run, snip),
    "crop": lambda run: _before_training(run, crop),
    "random": lambda run: _before_training(run, partial(random, seed=run.settings.seed)),
}
