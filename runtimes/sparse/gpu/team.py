"""Threads of a block that share results: each result is one lane's, its terms are cut into parts.

A block has ``lanes`` results side by side, and ``parts`` threads for each. Where a result's terms
lie one after the other there is one lane, whose threads read them side by side; where results lie
side by side there are several, so that threads next to one another read what is next to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.gpu.launch import Cost
from prunedeploy.runtimes.sparse.gpu.nd import Axes, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry

MAX_ROW = 256  # threads of a result whose terms are contiguous
LANES = 8  # floats of a sector, the least that memory moves
MAX_COLUMN = 32  # threads of a result that lies beside others
Combine = Callable[[Entry, str, str], str]


@dataclass(frozen=True)
class Shape:
    """How a block is cut."""

    lanes: int
    parts: int

    @property
    def block(self) -> int:
        """Threads."""
        return self.lanes * self.parts

    def __str__(self) -> str:
        return f"{self.lanes} results of {self.parts} threads"


def shape_of(results: Axes, inside: Axes) -> Shape:
    """The shape for ``results``, each of ``inside``'s terms; the first view of both is read."""
    contiguous = not inside.sizes or abs(inside.strides[0][-1]) == 1 or results.count == 1
    lanes, longest = (1, MAX_ROW) if contiguous else (LANES, MAX_COLUMN)
    parts = 32 // lanes
    while parts < longest and parts < inside.count:
        parts *= 2
    return Shape(lanes, parts)


class Team:
    """The registers of a thread in its team, and what teams do together.

    Args:
        entry: the entry under construction.
        shape: of its blocks.
        results: the axes of the results.
        inside: the axes of the terms of each.
    """

    def __init__(self, entry: Entry, shape: Shape, results: Axes, inside: Axes) -> None:
        self.entry, self.shape, self.results, self.inside = entry, shape, results, inside
        thread, lane, self.part, self.number, block = entry.registers("u32", 5)
        self.beyond = entry.register("pred")
        entry.add(
            f"mov.u32 {thread}, %tid.x",
            f"mov.u32 {block}, %ctaid.x",
            f"and.b32 {lane}, {thread}, {shape.lanes - 1}",
            f"shr.u32 {self.part}, {thread}, {shape.lanes.bit_length() - 1}",
            f"mad.lo.u32 {self.number}, {block}, {shape.lanes}, {lane}",
            f"setp.ge.u32 {self.beyond}, {self.number}, {results.count}",
            # threads beyond the last result compute it once more: all have to reach the barriers
            f"min.u32 {self.number}, {self.number}, {results.count - 1}",
        )
        self._own, self._first = entry.registers("u32", 2)
        entry.add(f"mov.u32 {self._first}, {entry.shared(4 * shape.block)}")
        entry.add(f"mad.lo.u32 {self._own}, {thread}, 4, {self._first}")
        entry.add(f"mad.lo.u32 {self._first}, {lane}, 4, {self._first}")
        self.body = 0  # instructions of the loops

    @property
    def turns(self) -> int:
        """Of a loop over the terms."""
        return -(-self.inside.count // self.shape.parts)

    @contextmanager
    def terms(self) -> Iterator[list[str]]:
        """A loop over the thread's terms: the offset of each view, in elements."""
        entry, turn, over = self.entry, self.entry.register("u32"), self.entry.register("pred")
        begin, end = entry.label(), entry.label()
        entry.add(f"mov.u32 {turn}, {self.part}")
        entry.mark(begin)
        before = len(entry.lines)
        entry.add(f"setp.ge.u32 {over}, {turn}, {self.inside.count}", f"@{over} bra {end}")
        yield offsets(entry, self.inside, turn)
        entry.add(f"add.u32 {turn}, {turn}, {self.shape.parts}", f"bra {begin}")
        self.body += len(entry.lines) - before
        entry.mark(end)

    def combine(self, value: str, how: Combine) -> str:
        """The values of all parts of a lane, combined; every thread of the lane has the result.

        The order is the same for every run: halves of the parts, then halves of these.
        """
        entry, half = self.entry, self.shape.parts
        while half > 1:
            half //= 2
            skip, idle, other = entry.label(), entry.register("pred"), entry.register("f32")
            entry.add(f"st.shared.f32 [{self._own}], {value}", "bar.sync 0")
            entry.add(f"setp.ge.u32 {idle}, {self.part}, {half}", f"@{idle} bra {skip}")
            entry.add(f"ld.shared.f32 {other}, [{self._own}+{4 * half * self.shape.lanes}]")
            entry.add(f"mov.f32 {value}, {how(entry, value, other)}")
            entry.mark(skip)
            entry.add("bar.sync 0")
        result = entry.register("f32")
        entry.add(
            f"st.shared.f32 [{self._own}], {value}",
            "bar.sync 0",
            f"ld.shared.f32 {result}, [{self._first}]",
            "bar.sync 0",  # before the memory is used again
        )
        return result

    @property
    def blocks(self) -> int:
        """Of the grid."""
        return -(-self.results.count // self.shape.lanes)

    def cost(self, passes: int, moved: int, written: int) -> Cost:
        """What it costs, once all is emitted.

        Args:
            passes: how often the terms are read.
            moved: elements that are read and written, each once.
            written: of them, those that are written.
        """
        lines = len(self.entry.lines)
        length = lines + self.body * (self.turns - 1)
        terms = self.inside.count * self.results.count
        return Cost(
            fma=0,
            instructions=length * self.shape.block * self.blocks,
            l1=4 * (passes * terms + written),
            moved=4 * moved,
            code=lines,
            longest=length,
            fetched=lines * self.blocks,
            waits=passes * self.turns,
        )
