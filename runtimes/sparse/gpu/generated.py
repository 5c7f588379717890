"""Convolutions with their weights in the code: one multiply-add for each non-zero.

A thread computes one pixel of up to 64 output channels, its program is the list of their non-zeros
with the weights as immediate operands, and each block runs one of the layer's programs, which it
jumps to by ``brx.idx``. It is the idea of SparseRT (Wang, "SparseRT: Accelerating Unstructured
Sparsity on GPUs for Deep Learning Inference", 2020). Windows are one program as well: tap after
tap, each a shifted plane, and threads whose pixel has no such tap jump over it.

Where pixels are too few to fill the GPU the program is cut into parts: each warp of a block
computes a part of the sums of the same pixels, and they are added up in shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prunedeploy.runtimes.sparse.gpu import nonzeros
from prunedeploy.runtimes.sparse.gpu.epilogue import Epilogue, epilogue_of, instructions
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nonzeros import Terms
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, Offsets, f32
from prunedeploy.runtimes.sparse.gpu.window import (
    Pixel,
    Tap,
    Window,
    pixel,
    skip_outside,
    thread_number,
    window_of,
)
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import View

AHEAD = 8  # loads before the multiply-adds that need them
IN_FLIGHT = 24  # loads that the assembler is taken to have in flight, moving them up
WARP = 32
PROLOGUE = 20  # instructions before a program, about


@dataclass(frozen=True)
class Schedule:
    """How a layer is cut: rows a program at most, threads along pixels, parts of a program."""

    rows: int
    threads: int
    parts: int = 1

    def __str__(self) -> str:
        split = f", {self.parts} parts" if self.parts > 1 else ""
        return f"{self.rows} rows, {self.threads} pixels{split}"


def programs(step: Conv, schedule: Schedule) -> list[range]:
    """The rows of each program of ``step``."""
    counts = nonzeros.row_counts(step)
    work = 2 * sum(counts) + instructions(step) * len(
        counts
    )  # a load for each non-zero at the worst
    longest = nonzeros.MAX_INSTRUCTIONS * schedule.parts
    count = max(-(-len(counts) // schedule.rows), -(-work // longest))
    return nonzeros.balanced(counts, count, schedule.rows)


def emit(step: Conv, name: str, schedule: Schedule) -> Kernel:
    """The kernel of ``step`` as ``schedule`` cuts it."""
    return _Emitter(step, name, schedule).kernel()


class _Emitter:
    """One kernel under construction."""

    def __init__(self, step: Conv, name: str, schedule: Schedule) -> None:
        self.step, self.schedule = step, schedule
        self.window: Window = window_of(step)
        self.taps: list[Tap] = self.window.taps()
        self.rows = programs(step, schedule)
        self.block = schedule.threads * schedule.parts
        views = [step.x, step.y]
        if step.residual is not None:
            views.append(step.residual)
        self.views: tuple[View, ...] = tuple(views)
        self.entry = Entry(name, len(views), self.block)
        longest = max(len(rows) for rows in self.rows)
        self.accumulators = self.entry.registers("f32", longest)
        self.slots = self.entry.registers("f32", AHEAD)
        self.lengths: list[int] = []  # instructions of each program's part
        self.nonzeros = self.loads = self.longest_loads = 0

    def kernel(self) -> Kernel:
        """The kernel, complete."""
        if self.schedule.parts > 1:
            self._split()
        else:
            self._whole()
        blocks = -(-self.window.pixels // self.schedule.threads)
        return Kernel(
            name=self.entry.name,
            step=self.step.name,
            kind="split" if self.schedule.parts > 1 else "generated",
            choice=f"{len(self.rows)} programs, {self.schedule}",
            text=self.entry.text(),
            grid=(blocks, len(self.rows)),
            block=self.block,
            arguments=self.views,
            cost=self._cost(blocks),
        )

    def _cost(self, blocks: int) -> Cost:
        pixels, code = self.window.pixels, sum(self.lengths)
        padded = -(-pixels // WARP) * WARP
        moved = 4 * sum(view.size for view in self.views)
        stored = self.step.weight.shape[0] * (len(self.views) - 1)
        return Cost(
            fma=self.nonzeros * pixels,
            instructions=code * padded,
            l1=4 * (self.loads + stored) * padded,
            moved=moved,
            code=code,
            longest=max(self.lengths),
            fetched=code * blocks,
            waits=1 + self.longest_loads // IN_FLIGHT,
        )

    def _begin(self, number: str) -> tuple[Pixel, list[str]]:
        """The thread's pixel, and the pointers at it; that of x at its window's begin."""
        where = pixel(self.entry, self.window, number)
        pointers = [self.entry.pointer(index) for index in range(len(self.views))]
        first = self.entry.shifted(pointers[0], where.index, signed=True)
        return where, [first, *(self.entry.shifted(p, number) for p in pointers[1:])]

    # -- a program for each block ----------------------------------------------------------------

    def _whole(self) -> None:
        entry, done = self.entry, self.entry.label()
        number = thread_number(entry, self.window.pixels, done)
        where, (x, y, *residual) = self._begin(number)
        chosen = entry.register("u32")
        entry.add(f"mov.u32 {chosen}, %ctaid.y")
        labels = [entry.label() for _ in self.rows]
        entry.branch(chosen, labels)
        for label, rows in zip(labels, self.rows, strict=True):
            entry.mark(label)
            before = len(entry.lines)
            for sum_, bias in zip(
                self.accumulators, self.step.bias[rows.start : rows.stop], strict=False
            ):
                entry.add(f"mov.f32 {sum_}, {f32(float(bias))}")
            self._products(nonzeros.terms(self.step, rows), where, x)
            finish = epilogue_of(entry, self.step, y, residual[0] if residual else None)
            for row, sum_ in zip(rows, self.accumulators, strict=False):
                finish.store(row, sum_)
            entry.add(f"bra {done}")
            self.lengths.append(len(entry.lines) - before + PROLOGUE)
        entry.mark(done)

    def _products(self, terms: list[Terms], where: Pixel, x: str) -> None:
        """Add the terms to the accumulators."""
        self.longest_loads = max(self.longest_loads, sum(part.loads for part in terms))
        for part in terms:
            tap, end = self.taps[part.tap], self.entry.label()
            skip_outside(self.entry, self.window, where, tap, end)
            self._tap_products(part, tap, x)
            if tap.row_check or tap.column_check:
                self.entry.mark(end)

    def _tap_products(self, part: Terms, tap: Tap, x: str) -> None:
        """Loads of some channels, then the multiply-adds on them, until all are through."""
        stride, accumulators = self.step.x.strides[1], self.accumulators
        addresses = Offsets(self.entry, x)
        starts = part.starts
        order = (np.cumsum(starts) - 1) % AHEAD  # which of the loads a term is on
        begins = [*np.flatnonzero(starts)[::AHEAD].tolist(), len(part.channels)]
        slots = [self.slots[index] for index in order.tolist()]
        rows, bits = part.rows.tolist(), part.values.view(np.uint32).tolist()
        for begin, end in pairwise(begins):
            for index in begin + np.flatnonzero(starts[begin:end]):
                address = addresses.at(4 * (int(part.channels[index]) * stride + tap.offset))
                self.entry.add(f"ld.global.nc.f32 {slots[index]}, {address}")
            chosen = [accumulators[row] for row in rows[begin:end]]
            self.entry.lines += [
                f"fma.rn.f32 {total},{slots[i]},0f{bits[i]:08X},{total};"
                for i, total in enumerate(chosen, begin)
            ]
        self.nonzeros += len(rows)
        self.loads += part.loads

    # -- a part of a program for each warp --------------------------------------------------------

    def _split(self) -> None:
        entry, parts, lanes = self.entry, self.schedule.parts, self.schedule.threads
        thread, lane, part, block, number = entry.registers("u32", 5)
        entry.add(
            f"mov.u32 {thread}, %tid.x",
            f"div.u32 {part}, {thread}, {lanes}",
            f"mad.lo.s32 {lane}, {part}, {-lanes}, {thread}",
            f"mov.u32 {block}, %ctaid.x",
            f"mad.lo.u32 {number}, {block}, {lanes}, {lane}",
        )
        beyond = entry.register("pred")
        entry.add(f"setp.ge.u32 {beyond}, {number}, {self.window.pixels}")
        # threads beyond the last pixel compute it once more: all have to reach the barrier
        entry.add(f"min.u32 {number}, {number}, {self.window.pixels - 1}")
        where, (x, y, *residual) = self._begin(number)
        chosen, first, count = entry.registers("u32", 3)
        entry.add(f"mov.u32 {chosen}, %ctaid.y", f"mad.lo.u32 {chosen}, {chosen}, {parts}, {part}")
        labels = [entry.label() for _ in range(parts * len(self.rows))]
        join = entry.label()
        entry.branch(chosen, labels)
        for index, rows in enumerate(self.rows):
            for number_, terms in enumerate(nonzeros.split(nonzeros.terms(self.step, rows), parts)):
                entry.mark(labels[index * parts + number_])
                before = len(entry.lines)
                entry.add(f"mov.u32 {first}, {rows.start}", f"mov.u32 {count}, {len(rows)}")
                bias = self.step.bias[rows.start : rows.stop]
                for row, sum_ in enumerate(self.accumulators):
                    begin = float(bias[row]) if row < len(rows) and number_ == 0 else 0.0
                    entry.add(f"mov.f32 {sum_}, {f32(begin)}")
                self._products(terms, where, x)
                entry.add(f"bra {join}")
                rest = PROLOGUE + len(self.accumulators) * (2 + instructions(self.step) / parts)
                self.lengths.append(len(entry.lines) - before + round(rest))
        entry.mark(join)
        self._reduce((thread, lane, part, first, count), beyond, y, residual)

    def _reduce(self, registers: tuple[str, ...], beyond: str, y: str, residual: list[str]) -> None:
        """Every part adds up the sums of some rows; shared memory is [row, part, lane]."""
        entry, parts, lanes = self.entry, self.schedule.parts, self.schedule.threads
        thread, lane, part, first, count = registers
        size = 4 * len(self.accumulators) * self.block
        own, base = entry.registers("u32", 2)
        entry.add(f"mov.u32 {base}, {entry.shared(size)}")
        entry.add(f"mad.lo.u32 {own}, {thread}, 4, {base}")
        for row, sum_ in enumerate(self.accumulators):
            entry.add(f"st.shared.f32 [{own}+{4 * row * self.block}], {sum_}")
        entry.add("bar.sync 0")
        done = entry.label()
        entry.add(f"@{beyond} bra {done}")
        address, row_, output_row = entry.registers("u32", 3)
        entry.add(
            f"mad.lo.u32 {address}, {lane}, 4, {base}",
            f"mad.lo.u32 {address}, {part}, {4 * self.block}, {address}",
        )
        for turn in range(-(-len(self.accumulators) // parts)):
            outside = entry.register("pred")
            entry.add(f"add.u32 {row_}, {part}, {turn * parts}")
            entry.add(f"setp.ge.u32 {outside}, {row_}, {count}", f"@{outside} bra {done}")
            total, more = self.accumulators[0], self.slots[0]
            for other in range(parts):
                offset = 4 * (turn * parts * self.block + other * lanes)
                entry.add(f"ld.shared.f32 {more if other else total}, [{address}+{offset}]")
                if other:
                    entry.add(f"add.rn.f32 {total}, {total}, {more}")
            entry.add(f"add.u32 {output_row}, {row_}, {first}")
            self._row_epilogue(output_row, y, residual).store(0, total)
        entry.mark(done)

    def _row_epilogue(self, row: str, y: str, residual: list[str]) -> Epilogue:
        """The epilogue of the row whose number is in a register."""
        pointers = []
        for pointer, view in zip((y, *residual), self.views[1:], strict=True):
            moved, wide = self.entry.registers("u64", 2)
            self.entry.add(f"mul.wide.u32 {wide}, {row}, {4 * view.strides[1]}")
            self.entry.add(f"add.u64 {moved}, {pointer}, {wide}")
            pointers.append(moved)
        added = pointers[1] if len(pointers) > 1 else None
        return epilogue_of(self.entry, self.step, pointers[0], added)
