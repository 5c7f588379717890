"""Products of computed tensors: a block a tile of the result, through shared memory.

A thread computes four rows by four columns. Both operands go into shared memory 16 terms at a time,
as planes of one term each, read along whichever of their axes is contiguous. Every result is summed
in the order of its terms, in one accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from prunedeploy.runtimes.sparse.gpu.cost import floors
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.nd import axes_of, offsets
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.plan.steps import MatMul
from prunedeploy.runtimes.sparse.plan.views import View
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import Gpu

DEPTH = 16  # terms in shared memory at once
EACH = 4  # rows and columns of a thread
SIDES = (8, 16)  # threads along each side of a tile
PAD = 4  # floats behind a plane, so that planes begin in different banks


def emit(step: MatMul, name: str, gpu: Gpu, target: Target) -> Kernel:
    """The kernel of a product, with tiles of the shortest predicted time."""

    def seconds(kernel: Kernel) -> float:
        return floors(kernel.cost, kernel.grid[0], gpu, target).seconds

    return min((emit_tiles(step, name, side) for side in SIDES), key=seconds)


def emit_tiles(step: MatMul, name: str, side: int) -> Kernel:
    """The kernel whose tiles are ``side`` threads wide and high."""
    if abs(step.y.strides[-2]) < abs(step.y.strides[-1]):
        # threads next to one another write columns: transpose what lies by rows
        bias = None if step.bias is None else _transposed(step.bias)
        views = _transposed(step.b), _transposed(step.a), _transposed(step.y)
        step = replace(step, a=views[0], b=views[1], y=views[2], bias=bias)
    return _Emitter(step, name, side).kernel()


def _transposed(view: View) -> View:
    shape = (*view.shape[:-2], view.shape[-1], view.shape[-2])
    return View(
        view.buffer, shape, (*view.strides[:-2], view.strides[-1], view.strides[-2]), view.offset
    )


@dataclass(frozen=True)
class _Load:
    """One element that a thread brings into shared memory in every turn.

    Args:
        pointer: at the element; moved from turn to turn.
        inside: the predicate that its row or column is in the matrix.
        term: the register with the number of its term.
        to: its address in shared memory.
    """

    pointer: str
    inside: str
    term: str
    to: str


class _Emitter:
    """One kernel under construction."""

    def __init__(self, step: MatMul, name: str, side: int) -> None:
        self.step, self.side, self.tile, self.block = step, side, EACH * side, side * side
        self.rows, self.terms = step.a.shape[-2:]
        self.columns = step.b.shape[-1]
        views = (step.a, step.b, step.y)
        self.views = views if step.bias is None else (*views, step.bias)
        self.plane = self.tile + PAD
        self.entry = Entry(name, len(self.views), self.block)
        self.thread, self.row, self.column = self.entry.registers("u32", 3)

    def kernel(self) -> Kernel:
        """The kernel, complete."""
        step, entry = self.step, self.entry
        tiles = -(-self.rows // self.tile), -(-self.columns // self.tile)
        products = axes_of(self.views, range(len(step.y.shape) - 2))
        block, number, position, line = entry.registers("u32", 4)
        entry.add(
            f"mov.u32 {self.thread}, %tid.x",
            f"mov.u32 {block}, %ctaid.x",
            f"div.u32 {number}, {block}, {tiles[0] * tiles[1]}",
            f"mad.lo.s32 {position}, {number}, {-tiles[0] * tiles[1]}, {block}",
            f"div.u32 {line}, {position}, {tiles[1]}",
            f"mad.lo.s32 {position}, {line}, {-tiles[1]}, {position}",
            f"mul.lo.u32 {self.row}, {line}, {self.tile}",
            f"mul.lo.u32 {self.column}, {position}, {self.tile}",
        )
        pointers = [
            entry.shifted(entry.pointer(index), offset, signed=True)
            for index, offset in enumerate(offsets(entry, products, number))
        ]
        accumulators = entry.registers("f32", EACH * EACH)
        for total in accumulators:
            entry.add(f"mov.f32 {total}, {f32(0)}")
        before = len(entry.lines)
        self._products(pointers, accumulators)
        body = len(entry.lines) - before
        self._store(pointers[2:], accumulators)
        blocks = products.count * tiles[0] * tiles[1]
        choice = f"tiles of {self.tile}, {DEPTH} terms at once"
        return Kernel(
            name=entry.name,
            step=step.name,
            kind="matmul",
            choice=choice,
            text=entry.text(),
            grid=(blocks, 1),
            block=self.block,
            arguments=self.views,
            cost=self._cost(blocks, body, products.count),
        )

    def _cost(self, blocks: int, body: int, products: int) -> Cost:
        turns, lines = -(-self.terms // DEPTH), len(self.entry.lines)
        length = lines + body * (turns - 1)
        threads = blocks * self.block
        read = 4 * turns * DEPTH * (2 * EACH + 2 * self.tile * self.tile // (EACH * self.block))
        return Cost(
            fma=products * self.rows * self.columns * self.terms,
            instructions=length * threads,
            l1=threads * (read + 4 * EACH * EACH),
            moved=4 * sum(view.size for view in self.views),
            code=lines,
            longest=length,
            fetched=lines * blocks,
            waits=1 + turns,
        )

    # -- the sums --------------------------------------------------------------------------------

    def _products(self, pointers: list[str], accumulators: list[str]) -> None:
        entry, half = self.entry, 4 * DEPTH * self.plane
        shared, left, right = entry.registers("u32", 3)
        entry.add(f"mov.u32 {shared}, {entry.shared(2 * half)}")
        across, down = self._position()
        entry.add(f"mad.lo.u32 {left}, {down}, {4 * EACH}, {shared}")
        entry.add(f"mad.lo.u32 {right}, {across}, {4 * EACH}, {shared}")
        *_, line, term = self.step.a.strides
        *_, next_term, column = self.step.b.strides
        first = self._loads(pointers[0], shared, self.row, self.rows, (line, term))
        second = self._loads(
            pointers[1], shared, self.column, self.columns, (column, next_term), half
        )
        turn, more, begin = entry.register("u32"), entry.register("pred"), entry.label()
        entry.add(f"mov.u32 {turn}, 0")
        entry.mark(begin)
        value = entry.register("f32")
        for loads, step in ((first, term), (second, next_term)):
            for load in loads:
                inside = entry.register("pred")
                entry.add(
                    f"setp.lt.u32 {inside}, {load.term}, {self.terms}",
                    f"and.pred {inside}, {inside}, {load.inside}",
                    f"mov.f32 {value}, {f32(0)}",
                    f"@{inside} ld.global.nc.f32 {value}, [{load.pointer}]",
                    f"st.shared.f32 [{load.to}], {value}",
                    f"add.s64 {load.pointer}, {load.pointer}, {4 * DEPTH * step}",
                    f"add.u32 {load.term}, {load.term}, {DEPTH}",
                )
        entry.add("bar.sync 0")
        rows, columns = entry.registers("f32", EACH), entry.registers("f32", EACH)
        for plane in range(DEPTH):
            at = 4 * plane * self.plane
            entry.add(f"ld.shared.v4.f32 {{{', '.join(rows)}}}, [{left}+{at}]")
            entry.add(f"ld.shared.v4.f32 {{{', '.join(columns)}}}, [{right}+{at + half}]")
            for total, (a, b) in zip(accumulators, product(rows, columns), strict=True):
                entry.add(f"fma.rn.f32 {total}, {a}, {b}, {total}")
        entry.add(
            "bar.sync 0",
            f"add.u32 {turn}, {turn}, {DEPTH}",
            f"setp.lt.u32 {more}, {turn}, {self.terms}",
            f"@{more} bra {begin}",
        )

    def _position(self) -> tuple[str, str]:
        """The thread's column and row in the tile, in units of ``EACH``."""
        across, down = self.entry.registers("u32", 2)
        self.entry.add(
            f"and.b32 {across}, {self.thread}, {self.side - 1}",
            f"shr.u32 {down}, {self.thread}, {self.side.bit_length() - 1}",
        )
        return across, down

    def _loads(
        self,
        pointer: str,
        shared: str,
        first: str,
        limit: int,
        steps: tuple[int, int],
        begin: int = 0,
    ) -> list[_Load]:
        """What a thread loads of one operand.

        Args:
            pointer: at the operand's begin.
            shared: the address of shared memory.
            first: the register with the tile's first row (or column, of the second operand).
            limit: rows (or columns) of the matrix.
            steps: elements from a row (or column) to the next, and from a term to the next.
            begin: bytes behind ``shared``.
        """
        entry, loads = self.entry, []
        along_terms = abs(steps[1]) < abs(steps[0])
        inner = DEPTH if along_terms else self.tile
        for index in range(self.tile * DEPTH // self.block):
            number, fast, slow, line, to = entry.registers("u32", 5)
            entry.add(
                f"add.u32 {number}, {self.thread}, {index * self.block}",
                f"and.b32 {fast}, {number}, {inner - 1}",
                f"shr.u32 {slow}, {number}, {inner.bit_length() - 1}",
            )
            position, term = (slow, fast) if along_terms else (fast, slow)
            inside = entry.register("pred")
            entry.add(
                f"add.u32 {line}, {first}, {position}", f"setp.lt.u32 {inside}, {line}, {limit}"
            )
            entry.add(
                f"mul.lo.s32 {line}, {line}, {steps[0]}",
                f"mad.lo.s32 {line}, {term}, {steps[1]}, {line}",
                f"mad.lo.u32 {to}, {position}, 4, {shared}",
                f"mad.lo.u32 {to}, {term}, {4 * self.plane}, {to}",
                f"add.u32 {to}, {to}, {begin}",
            )
            loads.append(_Load(entry.shifted(pointer, line, signed=True), inside, term, to))
        return loads

    # -- the results -----------------------------------------------------------------------------

    def _store(self, pointers: list[str], accumulators: list[str]) -> None:
        """Write the thread's results that are in the matrix; ``pointers`` are at y and the bias."""
        entry, views = self.entry, self.views[2:]
        across, down = self._position()
        lines = self._axis(self.row, down, self.rows)
        columns = self._axis(self.column, across, self.columns)
        for index, total in enumerate(accumulators):
            (line, row_inside), (column, inside) = lines[index // EACH], columns[index % EACH]
            both, end = entry.register("pred"), entry.label()
            entry.add(f"and.pred {both}, {row_inside}, {inside}", f"@!{both} bra {end}")
            addresses = []
            for pointer, view in zip(pointers, views, strict=True):
                offset = entry.register("u32")
                entry.add(
                    f"mul.lo.s32 {offset}, {line}, {view.strides[-2]}",
                    f"mad.lo.s32 {offset}, {column}, {view.strides[-1]}, {offset}",
                )
                addresses.append(entry.shifted(pointer, offset, signed=True))
            if self.step.alpha != 1:
                entry.add(f"mul.rn.f32 {total}, {total}, {f32(self.step.alpha)}")
            if len(addresses) > 1:
                added = entry.register("f32")
                entry.add(f"ld.global.nc.f32 {added}, [{addresses[1]}]")
                entry.add(f"add.rn.f32 {total}, {total}, {added}")
            entry.add(f"st.global.f32 [{addresses[0]}], {total}")
            entry.mark(end)

    def _axis(self, first: str, position: str, limit: int) -> list[tuple[str, str]]:
        """The rows (or columns) of a thread, and whether they are in the matrix."""
        numbers = []
        for index in range(EACH):
            number, inside = self.entry.register("u32"), self.entry.register("pred")
            self.entry.add(
                f"mad.lo.u32 {number}, {position}, {EACH}, {first}",
                f"add.u32 {number}, {number}, {index}",
                f"setp.lt.u32 {inside}, {number}, {limit}",
            )
            numbers.append((number, inside))
        return numbers
