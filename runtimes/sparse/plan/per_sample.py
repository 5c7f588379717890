"""Per-sample plans, for batches whose tensors do not fit into the caches.

A plan for the whole batch runs step by step over all of it; what a step writes has left the caches
before the next one reads it. Then it is faster when every thread takes one sample from beginning to
end: its tensors stay in the caches, and threads never wait for each other. But the last layers of
most networks have more weights than results: their feature maps are small, and no multiple of a
vector, or single pixels. They are computed once for all samples, so that their weights come from
memory once and vectors are full. These layers are the plan's *batched suffix*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prunedeploy.runtimes.sparse.plan import steps, views
from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan, writes
from prunedeploy.runtimes.sparse.plan.views import View

CACHED = 12 << 20  # bytes of tensors that two threads' caches, and their part of a shared one, hold
SMALL_PIXELS = 64  # pixels of a feature map that is small
MAX_PIXELS = 4 * SMALL_PIXELS  # pixels of a feature map in a batched suffix


@dataclass(frozen=True)
class _Cut:
    """A step from which on a network reads one tensor of all that was computed before.

    Args:
        first: the step's index in the plan of a sample.
        suffix: the steps from there on, of the whole batch.
        wanted: the tensor, of the whole batch.
        given: the tensor of a sample.
    """

    first: int
    suffix: tuple[steps.Step, ...]
    wanted: View
    given: View

    @property
    def views(self) -> list[View]:
        """All that the suffix reads and writes."""
        return [view for step in self.suffix for view in (*steps.reads(step), *writes(step))]

    @property
    def is_row(self) -> bool:
        """Whether a sample is one row of elements in all tensors from here on."""
        return all(sum(size > 1 for size in view.shape[1:]) <= 1 for view in self.views)

    @property
    def is_small(self) -> bool:
        """Whether all feature maps from here on have ``MAX_PIXELS`` at most.

        The tensor that is handed over has to be feature maps too.
        """
        planes = all(
            views.is_planar(view, 1) and len(view.shape) == 4 for view in (self.wanted, self.given)
        )
        return planes and all(math.prod(view.shape[2:]) <= MAX_PIXELS for view in self.views)


def per_sample_plan(whole: Plan, one: Plan, threads: int) -> Plan | None:
    """The per-sample plan of a batch, None where the whole batch at once should be faster.

    Args:
        whole: the plan for a batch, images behind one another.
        one: the same model's plan for a batch of 1.
        threads: how many the engine is expected to run with.
    """
    if whole.batch % threads or 4 * whole.arena <= CACHED or not _is_batch_first(whole, one):
        return None
    cut = _best(list(_cuts(whole, one)), one)
    return replace(
        one,
        batch=whole.batch,
        repeats=whole.batch,
        inputs=whole.inputs,
        outputs=whole.outputs,
        steps=one.steps[: cut.first] if cut else one.steps,
        suffix=_suffix(whole, one, cut) if cut else None,
    )


def _is_batch_first(whole: Plan, one: Plan) -> bool:
    """Whether the batch is the first axis of every input and output."""
    return all(
        port.shape[:1] == (whole.batch,) and single.shape == (1, *port.shape[1:])
        for port, single in zip(
            (*whole.inputs, *whole.outputs), (*one.inputs, *one.outputs), strict=True
        )
    )


def _best(cuts: Sequence[_Cut], one: Plan) -> _Cut | None:
    """The last cut before small feature maps, else the first before rows; ``cuts`` are in order."""
    small = _first_small(one)
    before = [cut for cut in cuts if cut.first <= small and cut.is_small and not cut.is_row]
    if before:
        return before[-1]
    return next((cut for cut in cuts if cut.is_row), None)


def _first_small(plan: Plan) -> int:
    """The step from which on the feature maps of all layers are small; the end where none is."""
    first = len(plan.steps)
    for index in reversed(range(len(plan.steps))):
        step = plan.steps[index]
        if isinstance(step, Conv):
            if math.prod(step.y.shape[2:]) > SMALL_PIXELS:
                break
            first = index
    return first


def _cuts(whole: Plan, one: Plan) -> Iterator[_Cut]:
    """The layers at which the batch can be put together, those with the longest suffix first."""
    indices = {step.name: index for index, step in enumerate(one.steps)}
    for index, step in enumerate(whole.steps):
        first = indices.get(step.name)
        single = one.steps[first] if first is not None else None
        if not isinstance(step, Conv) or not isinstance(single, Conv) or first is None:
            continue
        suffix, single_suffix = whole.steps[index:], one.steps[first:]
        if (
            _layers(suffix) == _layers(single_suffix)
            and _results(whole, suffix) == _results(one, single_suffix)
            and _needed(whole, index) == {step.x}
            and _needed(one, first) == {single.x}
            and step.x.shape == (whole.batch, *single.x.shape[1:])
            and single.x.shape[0] == 1
        ):
            yield _Cut(first, suffix, step.x, single.x)


def _layers(suffix: Sequence[steps.Step]) -> list[str]:
    return [step.name for step in suffix if isinstance(step, Conv)]


def _needed(plan: Plan, first: int) -> set[View]:
    """The views in which steps from ``first`` on read what is in the arena by then.

    A buffer of which they write a part themselves counts (slices of a Concat), if another part is
    written before.
    """
    early = {view.buffer for step in plan.steps[:first] for view in writes(step)}
    needed: set[View] = set()
    written: set[int] = set()
    for step in plan.steps[first:]:
        needed |= {
            view for view in steps.reads(step) if view.buffer in early or view.buffer not in written
        }
        written |= {view.buffer for view in writes(step)}
    return {view for view in needed if plan.buffers[view.buffer].space == "arena"}


def _results(plan: Plan, suffix: Sequence[steps.Step]) -> set[int]:
    """The indices of the outputs that ``suffix`` writes."""
    buffers = (plan.buffers[view.buffer] for step in suffix for view in writes(step))
    return {buffer.index for buffer in buffers if buffer.space == "output"}


def _suffix(whole: Plan, one: Plan, cut: _Cut) -> steps.BatchedSuffix:
    plan = allocate(replace(whole, steps=cut.suffix))
    wanted, given = cut.wanted, cut.given
    if cut.is_row:
        axis = max(range(1, len(wanted.shape)), key=lambda axis: wanted.shape[axis])
    else:
        axis = 1
    count = wanted.shape[axis]
    return steps.BatchedSuffix(
        plan=plan,
        count=count,
        pixels=math.prod(wanted.shape[1:]) // count,
        source=one.offsets[given.buffer] + given.offset,
        source_step=given.strides[axis],
        target=plan.offsets[wanted.buffer] + wanted.offset,
        target_step=wanted.strides[axis],
        sample_step=wanted.strides[0],
    )
