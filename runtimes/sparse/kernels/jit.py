"""Streams of the kernel "unrolled": programs, in which every non-zero is an instruction.

A program computes some output rows on one vector of pixels, from one panel of channels: it loads
each vector of the input once, and adds it to the sums of all rows that have a weight there. The
sums stay in registers, for which rows they are is written in the instructions. So a non-zero costs
its multiplication, with the weight as the operand in memory, and nothing else: no offset, no load
of the input that only it needs, no end of a row that the processor has to foresee. The same program
runs over the vectors of a tile one after the other, which is what pays for its size. Meanwhile it
fetches the next one, for no processor foresees so far where its instructions will come from.

The instructions are those of AVX-512 (Intel 64 and IA-32 Architectures Software Developer's Manual,
volume 2, section 2.7, on the EVEX prefix): sums in zmm0 to zmm30, the input in zmm31. The first
argument (rdi) points to the tile, the second (rsi) behind the first ``REACH`` weights, the third
(rdx) to the sums in memory, the fourth (rcx) to the bias of the first row, the fifth (r8) to what
is to be fetched, the sixth (r9) to the result, the seventh (on the stack, as the eighth is) to the
residual; the eighth is the mask of the pixels that are the tile's; see c/unrolled.h.

The last program of a row finishes it: it adds the residual, applies the activation and stores the
result. Sums go through memory only where another panel follows, or where programs cannot do it
(``ending_of``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels.packing import (
    FIRST,
    LAST,
    Ints,
    Part,
    Streams,
    entries,
    groups,
    panels_of,
    within,
)
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Tiling

PROGRAM = np.dtype(
    [
        ("row", "<u4"),
        ("rows", "<u2"),
        ("flags", "<u2"),
        ("code", "<u8"),  # bytes into all instructions
        ("half", "<u4"),  # from there, as what follows
        ("weight", "<u4"),
        ("size", "<u4"),
        ("fetch", "<u4"),
    ]
)
MOST_ROWS = 31  # registers of sums; one is the input's
INPUT = 31  # its register
REACHED = 2**29 - 2**16  # elements of a panel: instructions reach 2^31 bytes
REACH = 128  # weights that an instruction reaches, before the pointer and from it on
LINE = 64  # bytes of a cache line: instructions and weights begin on one
BYTES = 13  # of instructions and weights, for a non-zero: how much is fetched ahead
BOTH = 21  # where there are instructions for whole vectors and for halves
SPACING = (8, 64)  # non-zeros from one instruction that fetches a line to the next
TRAP, RETURN = 0xCC, 0xC3  # int3, which is between programs, and ret
WHOLE, HALF = 2, 1  # widths of vectors as the prefix says them: 512 bits, 256 bits

RAX, RDX, RSI, RDI, RCX = 0, 2, 6, 7, 1  # numbers of the registers that hold addresses
R9 = 9

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Operation:
    """An instruction's map of opcodes, its mandatory prefix, and its opcode."""

    map: int
    prefix: int
    opcode: int


LOAD = _Operation(1, 0, 0x10)  # vmovups register, memory
STORE = _Operation(1, 0, 0x11)  # vmovups memory, register
ADD = _Operation(1, 0, 0x58)  # vaddps
LEAST = _Operation(1, 0, 0x5D)  # vminps
MOST = _Operation(1, 0, 0x5F)  # vmaxps
CLEAR = _Operation(1, 1, 0xEF)  # vpxord
SPREAD = _Operation(2, 1, 0x18)  # vbroadcastss
MULTIPLY_ADD = _Operation(2, 1, 0xB8)  # vfmadd231ps
NUMBER = _Operation(2, 1, 0x7C)  # vpbroadcastd, from a general register


@dataclass(frozen=True)
class Ending:
    """What programs do with their sums in the end: residual, activation, result.

    Elements from one row of the result, and of the residual, to the next; bounds of the activation.
    """

    stride: int
    residual: int | None
    low: float
    high: float


def ending_of(step: Conv, tiling: Tiling) -> Ending | None:
    """How programs finish rows; None where c/unrolled.h does, behind them.

    That is where pixels of the border are between those of the result, where an activation is more
    than two bounds, and where rows are out of an instruction's reach.
    """
    bounds = step.activation.bounds
    residual = None if step.residual is None else step.residual.strides[1]
    farthest = tiling.rows * max(step.y.strides[1], residual or 0)
    if tiling.packing == "raster" or bounds is None or farthest >= 2**29:
        return None
    return Ending(step.y.strides[1], residual, *bounds)


def unrolled_streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The programs of ``step``, each of ``tiling.rows`` rows at the most.

    A part's ``visits`` are ``PROGRAM``, with places in the part's ``code``, where the weights are
    as well.

    Raises:
        ValueError: a panel reaches further than an instruction does.
    """
    panels = panels_of(step.x.shape[1], tiling.channels)
    found = entries(step, geometry, panels)
    farthest = int(found.offset.max(initial=0)) * geometry.unit
    if farthest >= 2**29:
        raise ValueError(f"an operand {farthest} elements away is out of an instruction's reach")
    ending = ending_of(step, tiling)
    edges = groups(np.bincount(found.row, minlength=len(step.weight)), tiling.groups)
    parts = []
    for begin, end in itertools.pairwise(edges):
        own = within(found, begin, end)
        blocks = _blocks(begin, end, tiling.rows)
        group = []
        for panel in range(len(panels)):
            here = own.panel == panel
            terms = _Terms(own.row[here], own.offset[here] * geometry.unit, own.weight[here])
            flags = FIRST * (panel == 0) + LAST * (panel == len(panels) - 1)
            group.append(_part(terms, blocks, flags, tiling, ending))
        parts.append(tuple(group))
    return Streams(panels, tuple(parts), int(np.diff(edges).max()))


@dataclass(frozen=True)
class _Terms:
    """Non-zeros: output row, place in the tile in elements, weight."""

    row: Ints
    place: Ints
    weight: Array


def _blocks(begin: int, end: int, most: int) -> Ints:
    """Edges of blocks of about equally many rows."""
    count = max(-(-(end - begin) // most), 1)
    return begin + (end - begin) * np.arange(count + 1) // count


def _part(terms: _Terms, blocks: Ints, flags: int, tiling: Tiling, ending: Ending | None) -> Part:
    """The programs of all blocks of rows, for one panel."""
    block = np.searchsorted(blocks, terms.row, side="right") - 1
    places = int(terms.place.max(initial=0)) + 1
    order = np.argsort((block * places + terms.place) * (MOST_ROWS + 1) + terms.row - blocks[block])
    block, rows = block[order], np.diff(blocks)
    row, place = terms.row[order] - blocks[block], terms.place[order]
    whole, half = divmod(tiling.eighths, 2)
    calls = (1 if tiling.packing == "raster" else tiling.pieces) * (whole + half)
    spacing = int(np.clip(calls * LINE // (BOTH if whole and half else BYTES), *SPACING))
    tail = _Tail(bool(flags & FIRST), ending if flags & LAST else None, tiling.elements)
    code = _Code(block, row, place, rows, tail, spacing)

    count = np.bincount(block, minlength=rows.size)
    length = _lines(code.length)
    programs = np.zeros(rows.size, PROGRAM)
    programs["row"], programs["rows"], programs["flags"] = blocks[:-1], rows, flags
    programs["half"] = length * (whole > 0)
    weights = length * ((whole > 0) + half)
    programs["weight"] = weights + 4 * REACH
    programs["size"] = weights + _lines(4 * count)
    programs["fetch"] = -(-count // spacing) * LINE
    starts = np.cumsum(np.append(0, programs["size"].astype(np.int64)))
    programs["code"] = starts[:-1]

    text = np.full(starts[-1], TRAP, np.uint8)
    if whole:
        code.write(text, starts[:-1], WHOLE)
    if half:
        code.write(text, starts[:-1] + programs["half"], HALF)
    stored = terms.weight[order].astype("<f4").view(np.uint8)
    edges = 4 * np.cumsum(np.append(0, count))
    for at, (first, last) in zip(starts[:-1] + weights, itertools.pairwise(edges), strict=True):
        text[at : at + last - first] = stored[first:last]
    return Part(int(blocks[0]), programs, np.zeros(0, np.uint16), np.zeros(0, np.float32), text)


def placed(programs: Array, place: int) -> Array:
    """``programs`` of a part whose code is at ``place`` among all instructions."""
    moved: NDArray[np.void] = programs.astype(PROGRAM)
    moved["code"] += np.uint64(place)
    return moved


def _lines(size: Ints) -> Ints:
    """Bytes, rounded up to whole cache lines."""
    lines: Ints = -(-size // LINE) * LINE
    return lines


@dataclass(frozen=True)
class _Tail:
    """How a program ends.

    Sums are added to those before them, unless they are the ``first``, of which ``elements`` are
    between two rows. They are stored there as well, unless rows are finished.
    """

    first: bool
    ending: Ending | None
    elements: int

    def instructions(self, rows: int, width: int) -> Bytes:
        """Of a program of so many rows, its return included."""
        row = np.arange(rows)
        found: list[Bytes] = []
        if not self.first:
            found += [_memory(ADD, width, row, RDX, 4 * self.elements * row)]
        if self.ending is None:
            found += [_memory(STORE, width, row, RDX, 4 * self.elements * row)]
        else:
            found += _finished(self.ending, row, width)
        return np.concatenate([*(each.reshape(-1) for each in found), np.array([RETURN], np.uint8)])


def _finished(ending: Ending, row: Ints, width: int) -> list[Bytes]:
    """Instructions that finish rows and store them."""
    found = [_bytes("c5f8904c2410")]  # kmovw k1, [rsp + 16]
    if ending.residual is not None:
        found += [_bytes("488b442408")]  # mov rax, [rsp + 8]
        found += [_memory(ADD, width, row, RAX, 4 * ending.residual * row)]
    for operation, bound, free in ((MOST, ending.low, -np.inf), (LEAST, ending.high, np.inf)):
        if np.float32(bound) != free:
            # NaN stays: the last operand is the result where either is NaN
            found += [_number(width, bound), _registers(operation, width, row, INPUT)]
    return [*found, _memory(STORE, width, row, R9, 4 * ending.stride * row, masked=True)]


class _Code:
    """Where every instruction of a part's programs lies; ``write`` writes them.

    A program begins a sum a row (7 bytes each). For every non-zero follows a multiplication (7); in
    front of it, for the first one of a column, a load (10), for every ``spacing``-th the fetching
    of a cache line of what comes next (8), and for every 2 ``REACH``-th the pointer to the weights
    is moved (7). Then comes the tail.
    """

    def __init__(
        self, block: Ints, row: Ints, place: Ints, rows: Ints, tail: _Tail, spacing: int
    ) -> None:
        self.block, self.row, self.place, self.rows = block, row, place, rows
        self.tail, self.spacing = tail, spacing
        start = np.searchsorted(block, np.arange(rows.size))
        self.nth: Ints = np.arange(block.size) - start[block]
        self.loads = np.ones(block.size, np.bool_)
        self.loads[1:] = (np.diff(block) != 0) | (np.diff(place) != 0)
        self.fetches = self.nth % spacing == 0
        self.moves = (self.nth > 0) & (self.nth % (2 * REACH) == 0)
        lengths = 7 + 10 * self.loads + 8 * self.fetches + 7 * self.moves
        total = np.bincount(block, lengths, rows.size).astype(np.int64)
        behind = np.cumsum(lengths) - (np.cumsum(total) - total)[block]  # in its own program
        #: of a non-zero's multiplication in its program, and of the end of all of them
        self.at: Ints = 7 * rows[block] + behind - 7
        self.end: Ints = 7 * rows + total
        ends = {count: tail.instructions(count, WHOLE).size for count in set(rows.tolist())}
        self.length: Ints = self.end + np.array([ends[count] for count in rows.tolist()], np.int64)

    def write(self, text: Bytes, starts: Ints, width: int) -> None:
        """The programs, which begin at ``starts``, for vectors of ``width``."""
        row, block = _numbers(self.rows)
        if self.tail.first:
            begun = _memory(SPREAD, width, row, RCX, row, short=True)
        else:
            begun = np.pad(
                _registers(CLEAR, width, row, row), ((0, 0), (0, 1)), constant_values=0x90
            )
        _put(text, starts[block] + 7 * row, begun)
        at = starts[self.block] + self.at
        _put(text, at, _memory(MULTIPLY_ADD, width, self.row, RSI, self._reach, short=True))
        loaded = _memory(LOAD, width, INPUT, RDI, 4 * self.place[self.loads])
        _put(text, at[self.loads] - 10, loaded)
        at = at - 10 * self.loads
        _put(text, at[self.fetches] - 8, _fetch(self.nth[self.fetches] // self.spacing * LINE))
        at = at - 8 * self.fetches
        _put(text, at[self.moves] - 7, np.tile(_advance(8 * REACH), (int(self.moves.sum()), 1)))
        for rows in set(self.rows.tolist()):
            some = self.rows == rows
            tail = self.tail.instructions(rows, width)
            _put(text, (starts + self.end)[some], np.tile(tail, (int(some.sum()), 1)))

    @property
    def _reach(self) -> Ints:
        """Of every multiplication: its weight, from where the pointer is."""
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


def _memory(
    operation: _Operation,
    width: int,
    register: Ints | int,
    base: int,
    at: Ints,
    short: bool = False,
    masked: bool = False,
) -> Bytes:
    """Instructions of a vector register and the memory at ``base`` + ``at``.

    ``short``: the operand is one float, spread over a vector; ``at`` counts floats, -128 to 127.
    Else it is a vector, ``masked`` by k1 or whole, and ``at`` counts bytes. In a sum and a product
    a third operand is between the two: the input in the product, the register itself in the sum.
    """
    between = {MULTIPLY_ADD: INPUT, ADD: register}.get(operation)
    spread = short and operation is MULTIPLY_ADD
    register, at = np.broadcast_arrays(np.asarray(register), at)
    found = np.empty((at.size, 7 if short else 10), np.uint8)
    found[:, :4] = _prefix(operation, width, register, between, spread)
    found[:, 1] ^= 0x20 * (base >> 3)
    found[:, 3] |= masked
    found[:, 4] = operation.opcode
    found[:, 5] = (0x40 if short else 0x80) | (register & 7) << 3 | base & 7
    if short:
        found[:, 6] = at.astype(np.int8).view(np.uint8)
    else:
        found[:, 6:] = at.astype("<i4").reshape(-1, 1).view(np.uint8)
    return found


def _registers(operation: _Operation, width: int, register: Ints, between: Ints | int) -> Bytes:
    """Instructions of three operands, of which first and last are the same register."""
    found = np.empty((register.size, 6), np.uint8)
    found[:, :4] = _prefix(operation, width, register, between, False)
    found[:, 1] ^= ((register & 8) << 2 | (register & 16) << 2).astype(np.uint8)
    found[:, 4] = operation.opcode
    found[:, 5] = 0xC0 | (register & 7) << 3 | register & 7
    return found


def _number(width: int, number: float) -> Bytes:
    """The input's register full of a number: mov eax, its bits; vpbroadcastd of eax."""
    moved = np.append(np.uint8(0xB8), np.array([number], "<f4").view(np.uint8))
    spread = _registers(NUMBER, width, np.array([INPUT]), 0)
    spread[:, 1] |= 0x60  # the last operand is eax
    spread[:, 5] = 0xC0 | (INPUT & 7) << 3 | RAX
    return np.concatenate([moved, spread.reshape(-1)])


def _bytes(hexadecimal: str) -> Bytes:
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8)


def _prefix(
    operation: _Operation,
    width: int,
    register: Ints,
    between: Ints | int | None,
    spread: bool,
) -> Bytes:
    """The EVEX prefix: numbers of registers are in it bit by bit and inverted."""
    other = np.broadcast_to(np.asarray(0 if between is None else between), register.shape)
    found = np.empty((register.size, 4), np.uint8)
    found[:, 0] = 0x62
    found[:, 1] = 0xF0 ^ ((register & 8) << 4 | register & 16) | operation.map
    found[:, 2] = (~other & 15) << 3 | 4 | operation.prefix
    found[:, 3] = width << 5 | spread << 4 | (~other & 16) >> 1
    return found


def _fetch(at: Ints) -> Bytes:
    """prefetcht1 [r8 + at]: a cache line into the second-level cache."""
    found = np.empty((at.size, 8), np.uint8)
    found[:, :4] = (0x41, 0x0F, 0x18, 0x90)
    found[:, 4:] = at.astype("<i4").reshape(-1, 1).view(np.uint8)
    return found


def _advance(count: int) -> Bytes:
    """The pointer to the weights moved by ``count`` bytes: add rsi, count."""
    return np.frombuffer(b"\x48\x81\xc6" + count.to_bytes(4, "little"), np.uint8)
