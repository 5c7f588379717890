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
from dataclasses import dataclass, replace

from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.steps import (
    BatchedSuffix,
    Conv,
    Plan,
    Step,
    View,
    is_planar,
    reads,
    writes,
)

NEAR = 12 << 20  # bytes of tensors that two threads' caches, and their part of a shared one, hold
SMALL_PIXELS = 64  # pixels of a map that is small
MAX_PIXELS = 4 * SMALL_PIXELS  # and of those that small ones come from


@dataclass(frozen=True)
class _Cut:
    """A place where the rest of the network needs one tensor of what was before.

    Args:
        first: of the rest, in the plan of a sample.
        late: the rest, of the whole batch.
        wanted: the tensor, of the whole batch.
        given: and of a sample.
    """

    first: int
    late: tuple[Step, ...]
    wanted: View
    given: View

    @property
    def views(self) -> list[View]:
        """All that the rest reads and writes."""
        return [view for step in self.late for view in (*reads(step), *writes(step))]

    @property
    def is_row(self) -> bool:
        """Whether a sample is one row of elements from here on."""
        return all(sum(size > 1 for size in view.shape[1:]) <= 1 for view in self.views)

    @property
    def is_small(self) -> bool:
        """Whether all maps from here on are of moderate size, and what is carried is maps."""
        planes = all(
            is_planar(view, 1) and len(view.shape) == 4 for view in (self.wanted, self.given)
        )
        return planes and all(math.prod(view.shape[2:]) <= MAX_PIXELS for view in self.views)


def per_sample_plan(whole: Plan, one: Plan, threads: int) -> Plan | None:
    """``one`` repeated for every sample of ``whole``, where that should be faster.

    Args:
        whole: the plan for a batch, images behind one another.
        one: the same model's plan for a batch of 1.
        threads: how many the engine is expected to run with.
    """
    if whole.batch % threads or 4 * whole.arena <= NEAR or not _apart(whole, one):
        return None
    cut = _best(list(_cuts(whole, one)), one)
    return replace(
        one,
        batch=whole.batch,
        repeats=whole.batch,
        inputs=whole.inputs,
        outputs=whole.outputs,
        steps=one.steps[: cut.first] if cut else one.steps,
        suffix=_head(whole, one, cut) if cut else None,
    )


def _apart(whole: Plan, one: Plan) -> bool:
    """Whether all that comes and goes has the batch as its first axis."""
    return all(
        port.shape[:1] == (whole.batch,) and single.shape == (1, *port.shape[1:])
        for port, single in zip(
            (*whole.inputs, *whole.outputs), (*one.inputs, *one.outputs), strict=True
        )
    )


def _best(cuts: Sequence[_Cut], one: Plan) -> _Cut | None:
    """The last before small maps, else the first before rows; ``cuts`` are in order."""
    small = _small(one)
    before = [cut for cut in cuts if cut.first <= small and cut.is_small and not cut.is_row]
    if before:
        return before[-1]
    return next((cut for cut in cuts if cut.is_row), None)


def _small(plan: Plan) -> int:
    """The first layer from which on all layers' maps are small; the end where there is none."""
    found = len(plan.steps)
    for index in reversed(range(len(plan.steps))):
        step = plan.steps[index]
        if isinstance(step, Conv):
            if math.prod(step.y.shape[2:]) > SMALL_PIXELS:
                break
            found = index
    return found


def _cuts(whole: Plan, one: Plan) -> Iterator[_Cut]:
    """Before every layer where the batch can be put together, the longest rest first."""
    places = {step.name: index for index, step in enumerate(one.steps)}
    for index, step in enumerate(whole.steps):
        first = places.get(step.name)
        single = one.steps[first] if first is not None else None
        if not isinstance(step, Conv) or not isinstance(single, Conv) or first is None:
            continue
        late, later = whole.steps[index:], one.steps[first:]
        if (
            _layers(late) == _layers(later)
            and _results(whole, late) == _results(one, later)
            and _needed(whole, index) == {step.x}
            and _needed(one, first) == {single.x}
            and step.x.shape == (whole.batch, *single.x.shape[1:])
            and single.x.shape[0] == 1
        ):
            yield _Cut(first, late, step.x, single.x)


def _layers(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps if isinstance(step, Conv)]


def _needed(plan: Plan, first: int) -> set[View]:
    """How steps from ``first`` on read what is in the arena by then.

    A buffer of which they write a part themselves counts (slices of a Concat), if another part is
    written before.
    """
    early = {view.buffer for step in plan.steps[:first] for view in writes(step)}
    found: set[View] = set()
    written: set[int] = set()
    for step in plan.steps[first:]:
        found |= {
            view for view in reads(step) if view.buffer in early or view.buffer not in written
        }
        written |= {view.buffer for view in writes(step)}
    return {view for view in found if plan.buffers[view.buffer].space == "arena"}


def _results(plan: Plan, steps: Sequence[Step]) -> set[int]:
    """Numbers of the outputs that ``steps`` write."""
    buffers = (plan.buffers[view.buffer] for step in steps for view in writes(step))
    return {buffer.index for buffer in buffers if buffer.space == "output"}


def _head(whole: Plan, one: Plan, cut: _Cut) -> BatchedSuffix:
    late = allocate(replace(whole, steps=cut.late))
    wanted, given = cut.wanted, cut.given
    if cut.is_row:
        axis = max(range(1, len(wanted.shape)), key=lambda axis: wanted.shape[axis])
    else:
        axis = 1
    count = wanted.shape[axis]
    return BatchedSuffix(
        plan=late,
        count=count,
        pixels=math.prod(wanted.shape[1:]) // count,
        source=one.offsets[given.buffer] + given.offset,
        source_step=given.strides[axis],
        target=late.offsets[wanted.buffer] + wanted.offset,
        target_step=wanted.strides[axis],
        sample_step=wanted.strides[0],
    )
