"""Batches in samples: where a whole batch's tensors do not fit into the caches.

A plan for the whole batch runs step by step over all of it; what a step writes has left the caches
before the next one reads it. Then it is faster when every thread takes one sample from beginning to
end: its tensors stay near, and threads never wait for each other. But the end of most networks has
more weights than results: its maps are small, and no multiple of a vector, or single pixels. It is
computed once for all samples, so that its weights come from memory once and vectors are full. That
is the plan's *head*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from prunedeploy.runtimes.sparse.memory import allocate
from prunedeploy.runtimes.sparse.plan import Conv, Head, Plan, Step, View, is_planar, reads, writes

NEAR = 12 << 20  # bytes of tensors that two threads' caches, and their part of a shared one, hold
SMALL = 64  # pixels of a map that is small
LARGEST = 4 * SMALL  # and of those that small ones come from


def samples(whole: Plan, one: Plan, threads: int) -> Plan | None:
    """``one`` repeated for every sample of ``whole``, where that should be faster.

    Args:
        whole: the plan for a batch, images behind one another.
        one: the same model's plan for a batch of 1.
        threads: how many the engine is expected to run with.
    """
    if whole.batch % threads or 4 * whole.arena <= NEAR or not _apart(whole, one):
        return None
    first, head = _best(list(_heads(whole, one)), one)
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


def _best(heads: Sequence[tuple[int, Head]], one: Plan) -> tuple[int, Head | None]:
    """The longest of single pixels, or one that is longer by the last small maps, and its begin."""
    small = _small(one)
    late = [(first, head) for first, head in heads if head.pixels == 1]
    found: tuple[int, Head | None] = late[0] if late else (len(one.steps), None)
    for first, head in heads:
        if head.pixels > 1 and first <= small and _widest(head.plan) <= LARGEST:
            found = first, head  # the shortest that has all small maps
    return found


def _widest(plan: Plan) -> int:
    """Pixels of the largest map that a layer reads or writes."""
    layers = [step for step in plan.steps if isinstance(step, Conv)]
    return max(math.prod(view.shape[2:]) for step in layers for view in (step.x, step.y))


def _small(plan: Plan) -> int:
    """The first layer from which on all layers' maps are small; the end where there is none."""
    found = len(plan.steps)
    for index in reversed(range(len(plan.steps))):
        step = plan.steps[index]
        if isinstance(step, Conv):
            if math.prod(step.y.shape[2:]) > SMALL:
                break
            found = index
    return found


def _heads(whole: Plan, one: Plan) -> Iterator[tuple[int, Head]]:
    """Where the rest of ``one`` needs one tensor of what was before, the longest rest first."""
    places = {step.name: index for index, step in enumerate(one.steps)}
    for index, step in enumerate(whole.steps):
        first = places.get(step.name)
        if first is None or not isinstance(step, Conv):
            continue
        late, later = whole.steps[index:], one.steps[first:]
        if _layers(late) != _layers(later):
            continue
        wanted, given = _only(whole, index), _only(one, first)
        if wanted is None or given is None or _results(whole, late) != _results(one, later):
            continue
        head = _head(whole, late, wanted, one, given)
        if head is not None:
            yield first, head


def _layers(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps if isinstance(step, Conv)]


def _only(plan: Plan, first: int) -> View | None:
    """What the steps from ``first`` on need of those before, where it is one view of one buffer,
    and the first of them reads it."""
    late = plan.steps[first:]
    needed = _needed(plan, first)
    views = {view for step in late for view in reads(step) if view.buffer in needed}
    return views.pop() if len(views) == 1 and views <= set(reads(late[0])) else None


def _needed(plan: Plan, first: int) -> set[int]:
    """Buffers of the arena that steps from ``first`` on read and do not write before."""
    found: set[int] = set()
    written: set[int] = set()
    for step in plan.steps[first:]:
        found |= {view.buffer for view in reads(step)} - written
        written |= {view.buffer for view in writes(step)}
    return {buffer for buffer in found if plan.buffers[buffer].place == "arena"}


def _results(plan: Plan, steps: Sequence[Step]) -> set[int]:
    """Numbers of the outputs that ``steps`` write."""
    buffers = (plan.buffers[view.buffer] for step in steps for view in writes(step))
    return {buffer.index for buffer in buffers if buffer.place == "output"}


def _is_row(view: View) -> bool:
    """Whether each sample has one row of elements and no more."""
    return sum(size > 1 for size in view.shape[1:]) <= 1


def _head(
    whole: Plan, steps: tuple[Step, ...], wanted: View, one: Plan, given: View
) -> Head | None:
    """``steps`` of ``whole``, where what is carried to them is planes or a row a sample."""
    if all(_is_row(view) for step in steps for view in (*reads(step), *writes(step))):
        axis = max(range(1, len(wanted.shape)), key=lambda axis: wanted.shape[axis])
        count, pixels = math.prod(wanted.shape[1:]), 1
    elif is_planar(wanted, 1) and is_planar(given, 1) and len(wanted.shape) == 4:
        axis, count, pixels = 1, wanted.shape[1], math.prod(wanted.shape[2:])
    else:
        return None
    late = allocate(replace(whole, steps=steps))
    return Head(
        plan=late,
        count=count,
        pixels=pixels,
        source=one.offsets[given.buffer] + given.offset,
        source_step=given.strides[axis],
        place=late.offsets[wanted.buffer] + wanted.offset,
        place_step=wanted.strides[axis],
        sample_step=wanted.strides[0],
    )
