"""The layout of programs: where every instruction lies, and how a program ends.

A program is called with eight arguments, in the registers of the System V ABI and on the stack:

rdi          the tile
rsi          the weights, ``REACH`` behind the first one
rdx          accumulators in memory
rcx          bias of the first row
r8           what is to be prefetched
r9           the result
[rsp + 8]    the residual
[rsp + 16]   mask of the pixels that are the tile's

See c/jit.h for the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunedeploy.runtimes.sparse.kernels.jit.encoder import (
    ADD,
    BROADCAST,
    CLEAR,
    INPUT,
    LOAD,
    MAX,
    MIN,
    MULTIPLY_ADD,
    R9,
    RAX,
    RCX,
    RDI,
    RDX,
    RETURN,
    RSI,
    STORE,
    WHOLE,
    Bytes,
    advance_weights,
    broadcast_number,
    hex_bytes,
    memory_operand,
    prefetch,
    register_operands,
)
from prunedeploy.runtimes.sparse.kernels.packing import Ints
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

REACH = 128  # weights that an instruction reaches, before the pointer and from it on
LINE = 64  # bytes of a cache line: instructions and weights begin on one


@dataclass(frozen=True)
class Epilogue:
    """The epilogue of programs: residual, activation, store.

    Args:
        stride: elements from one row of the result to the next.
        residual: elements from one row of the residual to the next; None without one.
        low: lower bound of the activation.
        high: its upper bound.
    """

    stride: int
    residual: int | None
    low: float
    high: float


def epilogue_of(step: Conv, schedule: Schedule) -> Epilogue | None:
    """The epilogue of programs; None where c/jit.h computes it, behind them.

    That is where pixels of the border are between those of the result, where an activation is more
    than two bounds, and where rows are out of an instruction's reach.
    """
    bounds = step.activation.bounds
    residual = None if step.residual is None else step.residual.strides[1]
    farthest = schedule.rows * max(step.y.strides[1], residual or 0)
    if schedule.packing == "shared_border" or bounds is None or farthest >= 2**29:
        return None
    return Epilogue(step.y.strides[1], residual, *bounds)


@dataclass(frozen=True)
class ProgramEnd:
    """The end of a program: accumulators are spilled, or the epilogue is computed.

    Accumulators are added to those of the panels before, unless this is the ``first``; those of two
    rows are ``elements`` apart in memory. They are spilled to it, unless there is an epilogue.
    """

    first: bool
    epilogue: Epilogue | None
    elements: int

    def instructions(self, rows: int, width: int) -> Bytes:
        """The last instructions of a program of ``rows`` rows, its return included."""
        row = np.arange(rows)
        code: list[Bytes] = []
        if not self.first:
            code += [memory_operand(ADD, width, row, RDX, 4 * self.elements * row)]
        if self.epilogue is None:
            code += [memory_operand(STORE, width, row, RDX, 4 * self.elements * row)]
        else:
            code += _epilogue(self.epilogue, row, width)
        return np.concatenate([*(each.reshape(-1) for each in code), np.array([RETURN], np.uint8)])


def _epilogue(epilogue: Epilogue, row: Ints, width: int) -> list[Bytes]:
    """The instructions of an epilogue."""
    code = [hex_bytes("c5f8904c2410")]  # kmovw k1, [rsp + 16]
    if epilogue.residual is not None:
        code += [hex_bytes("488b442408")]  # mov rax, [rsp + 8]
        code += [memory_operand(ADD, width, row, RAX, 4 * epilogue.residual * row)]
    for operation, bound, free in ((MAX, epilogue.low, -np.inf), (MIN, epilogue.high, np.inf)):
        if np.float32(bound) != free:
            # NaN stays: the last operand is the result where either is NaN
            code += [
                broadcast_number(width, bound),
                register_operands(operation, width, row, INPUT),
            ]
    return [*code, memory_operand(STORE, width, row, R9, 4 * epilogue.stride * row, masked=True)]


class Programs:
    """Where every instruction of a part's programs lies; ``write`` writes them.

    A program begins a sum a row (7 bytes each). For every non-zero follows a multiplication (7); in
    front of it, for the first one of a column, a load (10), for every ``spacing``-th a prefetch
    of a cache line of what comes next (8), and for every 2 ``REACH``-th the pointer to the weights
    is moved (7). Then come the last instructions.
    """

    def __init__(
        self, block: Ints, row: Ints, offset: Ints, rows: Ints, last: ProgramEnd, spacing: int
    ) -> None:
        self.block, self.row, self.offset, self.rows = block, row, offset, rows
        self.last, self.spacing = last, spacing
        start = np.searchsorted(block, np.arange(rows.size))
        self.nth: Ints = np.arange(block.size) - start[block]
        self.loads = np.ones(block.size, np.bool_)
        self.loads[1:] = (np.diff(block) != 0) | (np.diff(offset) != 0)
        self.prefetch = self.nth % spacing == 0
        self.moves = (self.nth > 0) & (self.nth % (2 * REACH) == 0)
        lengths = 7 + 10 * self.loads + 8 * self.prefetch + 7 * self.moves
        total = np.bincount(block, lengths, rows.size).astype(np.int64)
        behind = np.cumsum(lengths) - (np.cumsum(total) - total)[block]  # in its own program
        #: of a non-zero's multiplication in its program, and of the end of all of them
        self.at: Ints = 7 * rows[block] + behind - 7
        self.end: Ints = 7 * rows + total
        ends = {count: last.instructions(count, WHOLE).size for count in set(rows.tolist())}
        self.length: Ints = self.end + np.array([ends[count] for count in rows.tolist()], np.int64)

    def write(self, text: Bytes, starts: Ints, width: int) -> None:
        """The programs, which begin at ``starts``, for vectors of ``width``."""
        row, block = _numbers(self.rows)
        if self.last.first:
            begun = memory_operand(BROADCAST, width, row, RCX, row, short=True)
        else:
            begun = np.pad(
                register_operands(CLEAR, width, row, row), ((0, 0), (0, 1)), constant_values=0x90
            )
        _put(text, starts[block] + 7 * row, begun)
        at = starts[self.block] + self.at
        _put(text, at, memory_operand(MULTIPLY_ADD, width, self.row, RSI, self._reach, short=True))
        loaded = memory_operand(LOAD, width, INPUT, RDI, 4 * self.offset[self.loads])
        _put(text, at[self.loads] - 10, loaded)
        at = at - 10 * self.loads
        _put(text, at[self.prefetch] - 8, prefetch(self.nth[self.prefetch] // self.spacing * LINE))
        at = at - 8 * self.prefetch
        _put(
            text,
            at[self.moves] - 7,
            np.tile(advance_weights(8 * REACH), (int(self.moves.sum()), 1)),
        )
        for rows in set(self.rows.tolist()):
            some = self.rows == rows
            code = self.last.instructions(rows, width)
            _put(text, (starts + self.end)[some], np.tile(code, (int(some.sum()), 1)))

    @property
    def _reach(self) -> Ints:
        """The distance of each multiplication's weight from the pointer, in floats."""
        return self.nth % (2 * REACH) - REACH


def _numbers(rows: Ints) -> tuple[Ints, Ints]:
    """The numbers of all blocks' rows in their blocks, and the blocks'."""
    block = np.repeat(np.arange(len(rows)), rows)
    starts = np.cumsum(np.append(0, rows))[:-1]
    number: Ints = np.arange(block.size) - starts[block]
    return number, block


def _put(text: Bytes, at: Ints, instructions: Bytes) -> None:
    """``instructions`` [count, bytes] to the places ``at``."""
    for index in range(instructions.shape[1]):
        text[at + index] = instructions[:, index]


def cache_lines(size: Ints) -> Ints:
    """Bytes, rounded up to whole cache lines."""
    lines: Ints = -(-size // LINE) * LINE
    return lines
