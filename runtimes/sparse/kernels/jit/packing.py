"""A layer's weights as programs: instructions, then the weights that they multiply by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels import packing
from prunedeploy.runtimes.sparse.kernels.jit import layout
from prunedeploy.runtimes.sparse.kernels.jit.encoder import HALF, TRAP, WHOLE
from prunedeploy.runtimes.sparse.kernels.packing import Ints
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Schedule

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
MAX_ROWS = 31  # registers of accumulators; one is the input's
REACHED = 2**29 - 2**16  # elements of a panel: instructions reach 2^31 bytes
BYTES = 13  # of instructions and weights, for a non-zero: how much is prefetched
BOTH = 21  # where there are instructions for whole vectors and for halves
SPACING = (8, 64)  # non-zeros from one instruction that fetches a line to the next


def pack_jit(step: Conv, schedule: Schedule, geometry: Geometry) -> packing.PackedWeights:
    """The programs of ``step``, each of ``schedule.rows`` rows at the most.

    A part's ``row_segments`` are of dtype ``PROGRAM``, with offsets into the part's ``code``, which
    holds the weights as well.

    Raises:
        ValueError: a panel reaches further than an instruction does.
    """
    panels = packing.panels_of(step.x.shape[1], schedule.channels)
    nonzeros = packing.entries(step, geometry, panels)
    farthest = int(nonzeros.offset.max(initial=0)) * geometry.unit
    if farthest >= 2**29:
        raise ValueError(f"an operand {farthest} elements away is out of an instruction's reach")
    epilogue = layout.epilogue_of(step, schedule)
    edges = packing.groups(np.bincount(nonzeros.row, minlength=len(step.weight)), schedule.groups)
    parts = []
    for begin, end in itertools.pairwise(edges):
        own = packing.within(nonzeros, begin, end)
        blocks = _blocks(begin, end, schedule.rows)
        group = []
        for panel in range(len(panels)):
            here = own.panel == panel
            terms = _Terms(own.row[here], own.offset[here] * geometry.unit, own.weight[here])
            flags = packing.FIRST * (panel == 0) + packing.LAST * (panel == len(panels) - 1)
            group.append(_part(terms, blocks, flags, schedule, epilogue))
        parts.append(tuple(group))
    return packing.PackedWeights(panels, tuple(parts), int(np.diff(edges).max()))


@dataclass(frozen=True)
class _Terms:
    """Non-zeros: output row, offset in the tile in elements, weight."""

    row: Ints
    offset: Ints
    weight: Array


def _blocks(begin: int, end: int, max_rows: int) -> Ints:
    """Edges of blocks of about equally many rows."""
    count = max(-(-(end - begin) // max_rows), 1)
    return begin + (end - begin) * np.arange(count + 1) // count


def _part(
    terms: _Terms, blocks: Ints, flags: int, schedule: Schedule, epilogue: layout.Epilogue | None
) -> packing.Part:
    """The programs of all blocks of rows, for one panel."""
    block = np.searchsorted(blocks, terms.row, side="right") - 1
    span = int(terms.offset.max(initial=0)) + 1
    order = np.argsort((block * span + terms.offset) * (MAX_ROWS + 1) + terms.row - blocks[block])
    block, rows = block[order], np.diff(blocks)
    row, offset = terms.row[order] - blocks[block], terms.offset[order]
    whole, half = divmod(schedule.tile_width_x8, 2)
    calls = (1 if schedule.packing == "shared_border" else schedule.tile_rows) * (whole + half)
    spacing = int(np.clip(calls * layout.LINE // (BOTH if whole and half else BYTES), *SPACING))
    last = layout.ProgramEnd(
        bool(flags & packing.FIRST), epilogue if flags & packing.LAST else None, schedule.elements
    )
    code = layout.Programs(block, row, offset, rows, last, spacing)

    count = np.bincount(block, minlength=rows.size)
    length = layout.cache_lines(code.length)
    programs = np.zeros(rows.size, PROGRAM)
    programs["row"], programs["rows"], programs["flags"] = blocks[:-1], rows, flags
    programs["half"] = length * (whole > 0)
    weights = length * ((whole > 0) + half)
    programs["weight"] = weights + 4 * layout.REACH
    programs["size"] = weights + layout.cache_lines(4 * count)
    programs["fetch"] = -(-count // spacing) * layout.LINE
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
    return packing.Part(
        int(blocks[0]), programs, np.zeros(0, np.uint16), np.zeros(0, np.float32), text
    )


def relocated(programs: Array, base: int) -> Array:
    """``programs`` of a part whose code is at ``base`` among all instructions."""
    moved: NDArray[np.void] = programs.astype(PROGRAM)
    moved["code"] += np.uint64(base)
    return moved


def settings(
    step: Conv, schedule: Schedule, spilled: bool, common: dict[str, int]
) -> dict[str, int]:
    """The macros of c/jit.h; its offsets are in its instructions."""
    own = {"SPILLED": int(spilled), "EPILOGUE": int(layout.epilogue_of(step, schedule) is not None)}
    return own | {key: value for key, value in common.items() if key != "LOG_UNIT"}


def spilled_rows(step: Conv, schedule: Schedule) -> int:
    """Rows that programs leave in memory for c/jit.h to finish."""
    return 0 if layout.epilogue_of(step, schedule) is not None else schedule.rows
