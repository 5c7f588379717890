"""How much a step has to do: what reports hold measured times against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.plan import quantised, views
from prunedeploy.runtimes.sparse.plan import steps as plan

MAX_THREADS = 1024  # PD_MAX_THREADS of c/threads.h
# Cycles that one more thread costs in every step: 3.5 us (the fitted ``sync`` of predictions) at
# 3.65 GHz. It is enough that the figure is right within a factor of two: sessions measure the rest.
SYNC = 12_800
BYTES_PER_CYCLE = 8  # that one core moves between its caches and memory, roughly
WORTH = 0.9  # of the time with half as many threads: above it more threads are not worth waking


@dataclass(frozen=True)
class Work:
    """The work of one run of a step.

    ``flops`` counts a multiplication and an addition for every non-zero weight and pixel it meets,
    and one operation an element and instruction elsewhere. ``bytes`` are those of all elements
    read and written once, weights as they are, zeros left out.
    """

    flops: int
    bytes: int
    weights: int = 0
    nonzeros: int = 0


def work(step: plan.Step) -> Work:
    """The work of ``step``."""
    moved = 4 * sum(map(_touched, (*plan.reads(step), *plan.writes(step))))
    match step:
        case plan.Conv():
            nonzeros = int(np.count_nonzero(step.weight))
            pixels = math.prod(step.y.shape) // max(step.y.shape[1], 1)
            moved += 4 * (nonzeros + step.bias.size)
            return Work(2 * nonzeros * pixels, moved, int(step.weight.size), nonzeros)
        case quantised.Conv8():
            nonzeros = int(np.count_nonzero(step.weight))
            pixels = math.prod(step.y.shape) // max(step.y.shape[1], 1)
            moved = step.x.size + (1 if step.zero is not None else 4) * step.y.size + nonzeros
            moved += 4 * step.residual.size if step.residual is not None else 0
            return Work(2 * nonzeros * pixels, moved, int(step.weight.size), nonzeros)
        case quantised.Quantise() | quantised.Dequantise():
            return Work(2 * step.y.size, 5 * step.y.size)
        case quantised.Add8():
            return Work(4 * step.y.size, 3 * step.y.size)
        case quantised.Pool8():
            return Work(step.y.size * math.prod(step.kernel), step.x.size + step.y.size)
        case quantised.Unfold():
            return Work(0, step.x.size + step.y.size)
        case plan.MatMul():
            return Work(2 * step.y.size * step.a.shape[-1], moved)
        case plan.Recurrence():
            nonzeros = int(np.count_nonzero(step.weight))
            steps = step.x.shape[0] * step.x.shape[2]
            moved += 4 * nonzeros
            return Work(2 * nonzeros * steps, moved, int(step.weight.size), nonzeros)
        case plan.Map():
            return Work(step.y.size * len(step.code), moved)
        case plan.Pool():
            return Work(step.y.size * math.prod(step.kernel), moved)
        case plan.Reduce():
            return Work(step.x.size, moved)
        case plan.Softmax():
            return Work(4 * step.y.size, moved)
        case plan.Norm():
            return Work(6 * step.y.size, moved)
        case plan.Top():
            return Work(step.x.size, moved)
        case plan.Take():
            return Work(0, 12 * step.y.size)
        case plan.Lookup():
            return Work(0, 4 * step.indices.size + 8 * step.y.size)
        case _:
            return Work(0, moved)


def _touched(view: views.View) -> int:
    """Elements of memory: a broadcast axis counts once."""
    return math.prod(n for n, stride in zip(view.shape, view.strides, strict=True) if stride)


def useful_threads(steps: Sequence[plan.Step], isa: str) -> int:
    """The most threads, a power of two, that ``steps`` have enough work for.

    Networks of a few microseconds are slower on two threads than on one, because threads wait for
    one another after every step.

    Args:
        steps: of one run.
        isa: a name in ``isa.ISAS``.

    Returns:
        From 1 to ``MAX_THREADS``.
    """
    todo = [work(step) for step in steps]
    alone = [max(x.flops / (2 * ISAS[isa].lanes), x.bytes / BYTES_PER_CYCLE) for x in todo]

    def cycles(threads: int) -> float:
        return sum(alone) / threads + SYNC * len(alone) * math.log2(threads)

    threads = 1
    while threads < MAX_THREADS and cycles(2 * threads) < WORTH * cycles(threads):
        threads *= 2
    return threads
