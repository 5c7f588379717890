"""How samples of several requests may be computed together, found by trying the engine itself.

Computing requests together is right only where no sample of a batch has a say in another's result,
which no shape tells. So an engine is run on a batch and on samples of it alone, and computes every
request by itself where the two differ by more than rounding. An engine that is built for certain
batch sizes is timed with each: seven samples may take longer as 4 + 1 + 1 + 1 than as 8, the last
of which is computed for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Dim, Manifest, TensorSpec
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.verify import compare
from prunedeploy.runtimes.api import Session, split

USUAL_LARGEST = 16  # samples of a batch, for engines that take any
TIMED_RUNS = 3


@dataclass(frozen=True)
class BatchPlan:
    """How many samples are computed together.

    ``inputs`` and ``outputs`` are those of one request: of an engine with a fixed batch it may
    have fewer samples.
    ``largest`` is how many samples of several requests may be computed together, 0 where every
    request is computed by itself, for the reason ``alone``. ``sizes`` are those that the engine
    takes, or sums of them; empty for any. ``totals`` says for 1 to ``largest`` samples how many
    are computed, the last one repeated.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    largest: int
    sizes: tuple[int, ...] = ()
    totals: tuple[int, ...] = ()
    fixed: bool = False  # the engine takes its one size, no sums of it
    alone: str = ""

    def total(self, samples: int) -> int:
        """How many samples are computed for ``samples`` of them."""
        if not self.largest or not self.sizes:
            return samples
        if samples <= len(self.totals):
            return self.totals[samples - 1]
        return next(n for n in count(samples) if split(n, self.sizes) is not None)


def plan_of(session: Session, manifest: Manifest, largest: int = 0) -> BatchPlan:
    """The plan for an engine that ``session`` is of, which this runs a few times.

    Args:
        session: on the engine.
        manifest: the engine's.
        largest: samples to compute together at most; 0 for the engine's largest batch size, or
            ``USUAL_LARGEST`` where it takes any; 1 to compute every request by itself.
    """
    first = _batch_axis(manifest)
    alone = BatchPlan(manifest.inputs, manifest.outputs, 0, alone="its first axis is not the batch")
    if first is None:
        return alone
    sizes = (first,) if isinstance(first, int) else tuple(sorted(manifest.batches))
    usual = max(sizes, default=USUAL_LARGEST)
    largest = min(largest or usual, usual) if sizes else largest or usual
    if max(sizes, default=0) == 1:
        advice = "; build it with --batch 1,4,16 for more" if manifest.batches else ""
        return replace(alone, alone=f"it is built for batches of one{advice}")
    if largest == 1 and (not sizes or 1 in sizes):
        return replace(alone, alone="batches of one were asked for")
    fixed = isinstance(first, int)
    plan = replace(alone, largest=largest, sizes=sizes, fixed=fixed, alone="")
    if not _independent(session, plan, manifest):
        return replace(alone, alone="samples of a batch depend on each other")
    seconds = {n: _seconds(session, manifest.inputs, n) for n in sizes if n <= largest or fixed}
    totals = tuple(_cheapest(n, seconds) for n in range(1, largest + 1)) if seconds else ()
    inputs, outputs = (_open(specs) for specs in (manifest.inputs, manifest.outputs))
    return replace(plan, inputs=inputs, outputs=outputs, totals=totals)


def padded(feeds: Mapping[str, Array], samples: int, total: int) -> Mapping[str, Array]:
    """``samples`` samples as ``total``: the last one is repeated, which is as valid as it is."""
    if total == samples:
        return feeds
    rows = np.minimum(np.arange(total), samples - 1)
    return {name: array[rows] for name, array in feeds.items()}


def _batch_axis(manifest: Manifest) -> Dim | None:
    """The size that is first in every input and output, None where there is no such."""
    dims = {spec.shape[:1] for spec in (*manifest.inputs, *manifest.outputs)}
    (first,) = dims if len(dims) == 1 else ((),)
    return first[0] if first else None


def _open(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in specs)


def _independent(session: Session, plan: BatchPlan, manifest: Manifest) -> bool:
    """Whether the first and the last sample of a batch give alone what they give in it."""
    together = plan.total(plan.largest)
    feeds = random_feeds(manifest.inputs, together)
    if any(len(array) != together for array in feeds.values()):
        return False  # the network was found to run on other batches only
    built = manifest.difference
    tolerance = None if built is None else built.tolerances or built.tolerance
    try:
        whole = session.run(feeds)
        for row in (0, together - 1):
            one = {name: array[row : row + 1] for name, array in feeds.items()}
            results = session.run(padded(one, 1, plan.total(1)))
            expected = {name: array[:1] for name, array in results.items()}
            within = {name: array[row : row + 1] for name, array in whole.items()}
            if not compare(expected, within, tolerance).passed:
                return False
    except UserError:  # a shape inside the network does not go with the batch
        return False
    return all(len(array) == together for array in whole.values())


def _seconds(session: Session, inputs: tuple[TensorSpec, ...], samples: int) -> float:
    """The shortest of a few runs of ``samples`` samples, after one that is not timed."""
    feeds = random_feeds(inputs, samples)
    session.run(feeds)
    times = []
    for _ in range(TIMED_RUNS):
        begin = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - begin)
    return min(times)


def _cheapest(samples: int, seconds: Mapping[int, float]) -> int:
    """The number of samples, ``samples`` or more, that takes the least time."""
    sizes = tuple(sorted(seconds))

    def cost(total: int) -> float:
        pieces: Sequence[int] | None = split(total, sizes)
        return float("inf") if pieces is None else sum(seconds[size] for size in pieces)

    return min(range(samples, samples + sizes[-1]), key=cost)
