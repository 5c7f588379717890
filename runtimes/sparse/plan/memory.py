"""Static memory: every buffer of the arena gets its offset before anything runs.

A buffer lives from the first step that touches it to the last. Buffers that live at the same time
never overlap, but for steps that may write where they read. The largest are placed first, each in
the smallest gap that takes it (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural
Net Inference", 2020: greedy by size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunedeploy.runtimes.sparse.plan.steps import Conv, Map, Plan, reads, writes
from prunedeploy.runtimes.sparse.plan.views import GUARD, UNIT, View


@dataclass(frozen=True)
class Life:
    """Steps ``first`` to ``last`` need ``size`` elements."""

    first: int
    last: int
    size: int

    def meets(self, other: Life) -> bool:
        """Whether both are needed at one time."""
        return self.first <= other.last and other.first <= self.last


def allocate(plan: Plan) -> Plan:
    """``plan`` with its ``offsets``, multiples of ``UNIT`` elements, and the arena's size."""
    lives = lifetimes(plan)
    leaders = _share(plan, lives)
    merged: dict[int, Life] = {}
    for buffer, life in lives.items():
        leader = _leader(leaders, buffer)
        old = merged.get(leader, life)
        merged[leader] = Life(
            min(old.first, life.first), max(old.last, life.last), max(old.size, life.size)
        )
    packed = _pack(merged)
    offsets = [0] * len(plan.buffers)
    for buffer in lives:
        offsets[buffer] = packed[_leader(leaders, buffer)]
    ends = [packed[buffer] + life.size for buffer, life in merged.items()]
    return replace(plan, offsets=tuple(offsets), arena=max(ends, default=0))


def lifetimes(plan: Plan) -> dict[int, Life]:
    """The life of each buffer of the arena that a step touches; sizes include the guard."""
    lives: dict[int, Life] = {}
    for index, step in enumerate(plan.steps):
        for view in (*reads(step), *writes(step)):
            buffer = plan.buffers[view.buffer]
            if buffer.space == "arena":
                size = -(-(buffer.size + GUARD) // UNIT) * UNIT
                first = lives[view.buffer].first if view.buffer in lives else index
                lives[view.buffer] = Life(first, index, size)
    return lives


def _share(plan: Plan, lives: dict[int, Life]) -> dict[int, int]:
    """For each result that is computed in place the buffer that it takes over.

    A Map may write where it reads, a Conv where its residual is.
    """
    leaders: dict[int, int] = {}
    for index, step in enumerate(plan.steps):
        if isinstance(step, Map | Conv):
            source = _in_place(step, index, plan, lives)
            if source is not None:
                leaders[step.y.buffer] = source
    return leaders


def _in_place(step: Map | Conv, index: int, plan: Plan, lives: dict[int, Life]) -> int | None:
    """A buffer that is read last by this step, each element where the result's is written."""
    y = step.y
    if isinstance(step, Map):
        inputs = step.inputs
    else:
        inputs = (step.residual,) if step.residual is not None else ()
        if any(view.buffer == step.x.buffer for view in inputs):
            return None
    if y.buffer not in lives or lives[y.buffer].first != index:
        return None
    for view in inputs:
        life = lives.get(view.buffer)
        if life is None or life.last != index or life.first == index:
            continue
        whole = plan.buffers[view.buffer].size == plan.buffers[y.buffer].size
        same = all(_same_elements(v, y) for v in inputs if v.buffer == view.buffer)
        if whole and same:
            return view.buffer
    return None


def _same_elements(one: View, other: View) -> bool:
    return (one.shape, one.offset) == (other.shape, other.offset) and all(
        n == 1 or a == b for n, a, b in zip(one.shape, one.strides, other.strides, strict=True)
    )


def _leader(leaders: dict[int, int], buffer: int) -> int:
    while buffer in leaders:
        buffer = leaders[buffer]
    return buffer


def _pack(lives: dict[int, Life]) -> dict[int, int]:
    """An offset for each buffer: the largest first, in the smallest gap that takes it."""
    packed: list[tuple[int, Life]] = []
    offsets: dict[int, int] = {}
    for buffer, life in sorted(lives.items(), key=lambda item: (-item[1].size, item[0])):
        offsets[buffer] = _gap([(o, other) for o, other in packed if other.meets(life)], life.size)
        packed.append((offsets[buffer], life))
    return offsets


def _gap(taken: Sequence[tuple[int, Life]], size: int) -> int:
    best, best_room, end = None, 0, 0
    for offset, life in sorted(taken, key=lambda item: item[0]):
        room = offset - end
        if room >= size and (best is None or room < best_room):
            best, best_room = end, room
        end = max(end, offset + life.size)
    return end if best is None else best
