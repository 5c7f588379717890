"""Streams of the kernel "unrolled": programs, in which every non-zero is an instruction.

A program computes some output rows on one vector of pixels, from one panel of channels: it loads
each vector of the input once, and adds it to the sums of all rows that have a weight there. The sums
stay in registers, for which rows they are is written in the instructions. So a non-zero costs its
multiplication, with the weight as the operand in memory, and nothing else: no offset, no load of the
input that only it needs, no end of a row that the processor has to foresee. The same program runs
over the vectors of a tile one after the other, which is what its size is paid back by.

The instructions are those of AVX-512 (Intel 64 and IA-32 Architectures Software Developer's Manual,
volume 2, section 2.7: the EVEX prefix): sums in zmm0 to zmm30, the input in zmm31. The first
argument (rdi) points to the tile, the second (rsi) behind the first ``REACH`` weights, the third
(rdx) to the sums in memory, the fourth (rcx) to the bias of the first row; see c/unrolled.h.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.streams import (
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
from prunedeploy.runtimes.sparse.tiling import Geometry, Tiling
from prunedeploy.types import Array

PROGRAM = np.dtype(
    [("row", "<u4"), ("rows", "<u2"), ("flags", "<u2"), ("weight", "<u8"), ("code", "<u8", 2)]
)
MOST_ROWS = 31  # registers of sums; one is the input's
INPUT = 31  # its register
REACH = 128  # weights that an instruction reaches, before the pointer and from it on
ALIGNMENT = 64  # bytes: programs start on a cache line's boundary
WIDTHS = (2, 1)  # of a vector: 512 bits, 256 bits, as the prefix says it

RDX, RSI, RDI, RCX = 2, 6, 7, 1  # numbers of the registers that hold addresses

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Operation:
    """An instruction's map of opcodes, its mandatory prefix and opcode (volume 2, section 2.7.1)."""

    map: int
    prefix: int
    opcode: int


LOAD = _Operation(1, 0, 0x10)  # vmovups register, memory
STORE = _Operation(1, 0, 0x11)  # vmovups memory, register
ADD = _Operation(1, 0, 0x58)  # vaddps
CLEAR = _Operation(1, 1, 0xEF)  # vpxord
SPREAD = _Operation(2, 1, 0x18)  # vbroadcastss
MULTIPLY_ADD = _Operation(2, 1, 0xB8)  # vfmadd231ps


def unrolled_streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The programs of ``step``, each of ``tiling.rows`` rows at the most.

    A part's ``visits`` are ``PROGRAM``: where each begins in the part's ``code``, for whole
    vectors and for halves, and in its weights.
    """
    panels = panels_of(step.x.shape[1], tiling.channels)
    found = entries(step, geometry, panels)
    edges = groups(np.bincount(found.row, minlength=len(step.weight)), tiling.groups)
    parts = []
    for begin, end in itertools.pairwise(edges):
        here = within(found, begin, end)
        blocks = _blocks(begin, end, tiling.rows)
        parts.append(
            tuple(
                _part(
                    _Terms(
                        here.row[here.panel == panel],
                        here.offset[here.panel == panel] * geometry.unit,
                        here.weight[here.panel == panel],
                    ),
                    blocks,
                    FIRST * (panel == 0) + LAST * (panel == len(panels) - 1),
                    tiling,
                )
                for panel in range(len(panels))
            )
        )
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


def _part(terms: _Terms, blocks: Ints, flags: int, tiling: Tiling) -> Part:
    """The programs of all blocks of rows, for one panel."""
    block = np.searchsorted(blocks, terms.row, side="right") - 1
    order = np.lexsort((terms.row, terms.place, block))
    block, place = block[order], terms.place[order]
    code = _Code(block, terms.row[order] - blocks[block], place, np.diff(blocks))
    programs = np.zeros(len(blocks) - 1, PROGRAM)
    programs["row"], programs["rows"], programs["flags"] = blocks[:-1], np.diff(blocks), flags
    programs["weight"] = code.first + REACH
    texts, size = [], 0
    for number, width in enumerate(WIDTHS):
        whole, half = divmod(tiling.eighths, 2)
        if (whole, half)[number]:
            programs["code"][:, number] = size + code.starts
            texts.append(code.text(width, flags, tiling.elements))
            size += texts[-1].size
    weight = terms.weight[order].astype(np.float32)
    text = np.concatenate([*texts, np.zeros(0, np.uint8)])
    return Part(int(blocks[0]), programs, np.zeros(0, np.uint16), weight, text)


class _Code:
    """Where every instruction of a part's programs lies; ``text`` writes them.

    A program is: a sum a row begun (7 bytes each); for every column that its rows use a load (10),
    and for every non-zero of it a multiplication (7); the pointer to the weights moved on (7) in
    front of every 2 ``REACH``-th; sums stored (10 each, and 10 where they go on), a return.
    """

    def __init__(self, block: Ints, row: Ints, place: Ints, rows: Ints) -> None:
        self.row, self.place, self.rows = row, place, rows
        blocks = np.arange(len(rows))
        self.first: Ints = np.searchsorted(block, blocks)
        self.nth: Ints = np.arange(block.size) - self.first[block]
        self.loads = np.ones(block.size, np.bool_)
        self.loads[1:] = (np.diff(block) != 0) | (np.diff(place) != 0)
        self.moves = (self.nth > 0) & (self.nth % (2 * REACH) == 0)
        lengths = 7 + 7 * self.moves + 10 * self.loads
        ends = np.cumsum(lengths)
        total = np.bincount(block, lengths, len(rows)).astype(np.int64)
        self.begin, self.end = 7 * rows, 7 * rows + total
        sizes = self.end + 20 * rows + 1
        self.starts: Ints = np.cumsum(np.append(0, -(-sizes // ALIGNMENT) * ALIGNMENT))
        self.size = int(self.starts[-1])
        self.starts = self.starts[:-1]
        before = np.append(0, ends)[self.first]
        #: of each non-zero's multiplication
        self.at: Ints = (self.starts + self.begin - before)[block] + ends - 7

    def text(self, width: int, flags: int, elements: int) -> Bytes:
        """The programs for vectors of ``width``; a row's sums are ``elements`` in memory."""
        found = np.full(self.size, 0xCC, np.uint8)  # int3
        sums, start = _numbers(self.rows)
        if flags & FIRST:
            begun = _memory(SPREAD, width, sums, RCX, sums, short=True)
        else:
            begun = np.pad(_registers(CLEAR, width, sums), ((0, 0), (0, 1)), constant_values=0x90)
        _put(found, self.starts[start] + 7 * sums, begun)
        _put(
            found,
            self.at[self.loads] - 10,
            _memory(LOAD, width, INPUT, RDI, 4 * self.place[self.loads]),
        )
        # the load is in front of the multiplication, what moves the pointer in front of both
        moved = self.at[self.moves] - 7 - 10 * self.loads[self.moves]
        _put(found, moved, np.tile(_advance(8 * REACH), (moved.size, 1)))
        reach = self.nth % (2 * REACH) - REACH
        _put(found, self.at, _memory(MULTIPLY_ADD, width, self.row, RSI, reach, short=True))
        ended = self.starts[start] + self.end[start]
        if not flags & FIRST:
            _put(found, ended + 10 * sums, _memory(ADD, width, sums, RDX, 4 * elements * sums))
            ended = ended + 10 * self.rows[start]
        _put(found, ended + 10 * sums, _memory(STORE, width, sums, RDX, 4 * elements * sums))
        returned = self.starts + self.end + (10 if flags & FIRST else 20) * self.rows
        found[returned] = 0xC3
        return found


def _numbers(rows: Ints) -> tuple[Ints, Ints]:
    """The numbers of all blocks' rows in their blocks, and the blocks'."""
    block = np.repeat(np.arange(len(rows)), rows)
    starts = np.cumsum(np.append(0, rows))[:-1]
    number: Ints = np.arange(block.size) - starts[block]
    return number, block


def _put(text: Bytes, at: Ints, instructions: Bytes) -> None:
    """``instructions`` [count, bytes] to the places ``at``."""
    text[at[:, None] + np.arange(instructions.shape[1])] = instructions


def _memory(
    operation: _Operation, width: int, register: Ints | int, base: int, at: Ints, short: bool = False
) -> Bytes:
    """Instructions of a vector register and the memory at ``base`` + ``at``.

    ``short``: the operand is one float, spread over a vector; ``at`` counts floats, -128 to 127.
    Else it is a vector, and ``at`` counts bytes. In a sum and a product a third operand is between
    the two: the input in the product, the register itself in the sum.
    """
    between = {MULTIPLY_ADD: INPUT, ADD: register}.get(operation)
    spread = short and operation is MULTIPLY_ADD
    register, at = np.broadcast_arrays(np.asarray(register), at)
    found = np.empty((at.size, 7 if short else 10), np.uint8)
    found[:, :4] = _prefix(operation, width, register, between, spread)
    found[:, 4] = operation.opcode
    found[:, 5] = (0x40 if short else 0x80) | (register & 7) << 3 | base
    if short:
        found[:, 6] = at.astype(np.int8).view(np.uint8)
    else:
        found[:, 6:] = at.astype("<i4").reshape(-1, 1).view(np.uint8)
    return found


def _registers(operation: _Operation, width: int, register: Ints) -> Bytes:
    """Instructions of three operands, all the same register."""
    found = np.empty((register.size, 6), np.uint8)
    found[:, :4] = _prefix(operation, width, register, register, False)
    found[:, 1] ^= ((register & 8) << 2 | (register & 16) << 2).astype(np.uint8)
    found[:, 4] = operation.opcode
    found[:, 5] = 0xC0 | (register & 7) << 3 | register & 7
    return found


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


def _advance(count: int) -> Bytes:
    """The pointer to the weights moved by ``count`` bytes: add rsi, count."""
    return np.frombuffer(b"\x48\x81\xc6" + count.to_bytes(4, "little"), np.uint8)
