"""Runs of several sessions in turn, timed: the one way that latencies here become comparable.

Latencies of two separate runs differ by a tenth on an ordinary machine (clock, other load, where
memory happens to lie), so they say nothing about ratios. Here every round runs each session, in an
order drawn anew (Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013). In its
turn a session runs twice and the second run counts: the first brings its weights back into the
caches that the others used.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.api import Session

SETTLING = 20  # runs after which a session has settled on its threads and its memory


def interleave(
    sessions: Sequence[Session],
    feeds: Mapping[str, Array],
    rounds: int,
    warmup: int,
    seed: int = 0,
    seconds: float = float("inf"),
    tell: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Time the sessions in turn.

    Args:
        sessions: opened engines that all take ``feeds``.
        feeds: an array for every input.
        rounds: how often each session has its turn, at most.
        warmup: runs of each session before the first round.
        seed: of the order in the rounds.
        seconds: after which no further round begins; there are three at least.
        tell: is called before each round with the number of those that are over.

    Returns:
        Nanoseconds of the runs of each session, one a round.
    """
    order = np.random.default_rng(seed)
    samples: list[list[int]] = [[] for _ in sessions]
    for session in sessions:
        _warm_up(session, feeds, warmup, seconds / max(len(sessions), 1))
    end = time.monotonic() + seconds
    with _no_collection():
        for count in range(rounds):
            if count >= min(3, rounds) and time.monotonic() > end:
                break
            if tell is not None:
                tell(count)
            for index in order.permutation(len(sessions)):
                session = sessions[index]
                session.run(feeds)
                start = time.perf_counter_ns()
                session.run(feeds)
                samples[index].append(time.perf_counter_ns() - start)
    return samples


def _warm_up(session: Session, feeds: Mapping[str, Array], count: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    for done in range(count):
        if done and time.monotonic() > end:
            break
        session.run(feeds)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The garbage collector does not run in the middle of a measurement."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
