"""Lottery tickets: train, prune, go back to an early step, and train what is left.

Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; rewinding to an early step instead
of the first: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunedeploy.sparsify.run import Run
from prunedeploy.sparsify.sparsifier import Sparsifier


@dataclass(frozen=True)
class Ticket:
    """Masks that were found, the weights trained under the ones before, and the early state."""

    sparsifier: Sparsifier
    early: dict[str, Any]


def find_ticket(
    run: Run, sparsifier: Sparsifier, densities: Sequence[float], rewind: float
) -> Ticket:
    """Train to the end and prune to each density; in between go back to the share ``rewind``.

    The module is left with the trained weights that the last masks were chosen by.
    """
    run.train(run.at(rewind))
    early = run.trainer.state_dict()
    run.train()
    for number, density in enumerate(densities):
        if number:
            run.trainer.load_state_dict(early)
            run.train(held=sparsifier)
        sparsifier.prune(density)
    return Ticket(sparsifier, early)
