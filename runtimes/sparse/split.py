"""Batches in samples: where a whole batch's tensors do not fit into the caches.

A plan for the whole batch runs step by step over all of it; what a step writes has left the caches
before the next one reads it. Then it is faster when every thread takes one sample from beginning to
end: its tensors stay near, and threads never wait for each other. But the head of a classifier has
more weights than results: it is computed once for all samples, so that its weights come from memory
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from prunedeploy.runtimes.sparse.memory import allocate
from prunedeploy.runtimes.sparse.plan import Conv, Head, Plan, Step, View, reads, writes

NEAR = 12 << 20  # bytes of tensors that two threads' caches, and their part of a shared one, hold


def samples(whole: Plan, one: Plan, threads: int) -> Plan:
    """``whole``, or ``one`` repeated for every sample of it, whichever should be faster.

    Args:
        whole: the plan for a batch.
        one: the same model's plan for a batch of 1.
        threads: how many the engine is expected to run with.
    """
    if whole.batch % threads or 4 * whole.arena <= NEAR or not _apart(whole, one):
        return whole
    first, head = next(_heads(whole, one), (len(one.steps), None))
    return replace(
        one,
        batch=whole.batch,
        repeats=whole.batch,
        inputs=whole.inputs,
        outputs=whole.outputs,
        steps=one.steps[:first],
        head=head,
    )


def _apart(whole: Plan, one: Plan) -> bool:
    """Whether all that comes and goes has the batch as its first axis."""
    return all(
        port.shape[:1] == (whole.batch,) and single.shape == (1, *port.shape[1:])
        for port, single in zip(
            (*whole.inputs, *whole.outputs), (*one.inputs, *one.outputs), strict=True
        )
    )


def _heads(whole: Plan, one: Plan) -> Iterator[tuple[int, Head]]:
    """Heads that begin with a linear layer, the longest first, and where they begin in ``one``."""
    places = {step.name: index for index, step in enumerate(one.steps)}
    for index, step in enumerate(whole.steps):
        first = places.get(step.name)
        single = one.steps[first] if first is not None else None
        if not isinstance(step, Conv) or not isinstance(single, Conv) or first is None:
            continue
        late, later = whole.steps[index:], one.steps[first:]
        if (
            _needed(whole, index) == {step.x.buffer}
            and _needed(one, first) == {single.x.buffer}
            and _views(late, step.x.buffer) == {step.x}
            and _results(whole, late) == _results(one, later)
            and all(_is_row(view) for each in late for view in (*reads(each), *writes(each)))
        ):
            yield first, _head(allocate(replace(whole, steps=late)), step.x, one, single.x)


def _needed(plan: Plan, first: int) -> set[int]:
    """Buffers of the arena that steps from ``first`` on read and do not write before."""
    found: set[int] = set()
    written: set[int] = set()
    for step in plan.steps[first:]:
        found |= {view.buffer for view in reads(step)} - written
        written |= {view.buffer for view in writes(step)}
    return {buffer for buffer in found if plan.buffers[buffer].place == "arena"}


def _views(steps: Sequence[Step], buffer: int) -> set[View]:
    """In which ways ``steps`` read a buffer."""
    return {view for step in steps for view in reads(step) if view.buffer == buffer}


def _results(plan: Plan, steps: Sequence[Step]) -> set[int]:
    """Numbers of the outputs that ``steps`` write."""
    buffers = (plan.buffers[view.buffer] for step in steps for view in writes(step))
    return {buffer.index for buffer in buffers if buffer.place == "output"}


def _is_row(view: View) -> bool:
    """Whether each sample has one row of elements and no more."""
    return sum(size > 1 for size in view.shape[1:]) <= 1


def _head(late: Plan, wanted: View, one: Plan, given: View) -> Head:
    axis = max(range(1, len(wanted.shape)), key=lambda axis: wanted.shape[axis])
    return Head(
        plan=late,
        count=math.prod(wanted.shape[1:]),
        source=one.offsets[given.buffer] + given.offset,
        source_step=given.strides[axis],
        place=late.offsets[wanted.buffer] + wanted.offset,
        place_step=wanted.strides[axis],
        sample_step=wanted.strides[0],
    )
