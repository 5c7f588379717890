"""Candidates and cost model of the kernel "jit"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from prunedeploy.runtimes.sparse.isa import Isa
from prunedeploy.runtimes.sparse.kernels import shapes
from prunedeploy.runtimes.sparse.kernels.cost import copied_cycles
from prunedeploy.runtimes.sparse.kernels.jit.layout import epilogue_of
from prunedeploy.runtimes.sparse.kernels.jit.packing import MAX_ROWS, REACHED
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule.schedule import (
    Schedule,
    geometry,
    inside,
    is_direct,
    is_flat,
    pixels,
)

MAX_DENSITY = 0.6  # up to this density a layer's non-zeros may be instructions
PROGRAM_BYTES = 15  # bytes of a program for a non-zero
MIN_PIXELS = 64  # pixels a thread from which on it may compute its own
TILE_X8 = 56  # pixels, in units of 8, that a program runs over one after the other
MAX_TERMS = (512, 80)  # of a row's sum in a panel: longer sums err more; programs stay in the cache
PANEL_BYTES = 640 * 1024  # bytes of a packed panel: programs read it from the second-level cache

# cycles, measured as those of kernels/cost.py are
WEIGHT = 0.5  # of a non-zero that is an instruction: its weight
LOAD = 1.2  # and of a vector of the input that a program loads, for all its rows
CODE_BYTES = 9.0  # bytes of instructions that come in a cycle where a program is no longer in
L1_BYTES = 28 * 1024  # the first-level cache, which holds so many
MEMORY_BYTES = 4.0  # bytes of programs that come from memory in a cycle
ACCUMULATOR = 3.0  # of a vector of accumulators: begun, finished or spilled
RELOADED = 2.0  # and reloaded, by the next panel's program or to be finished
CALL = 15.0  # of a program on a vector


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Programs of as many rows as there are registers, or a little fewer, all equally many."""
    if not suits(step, scope.isa):
        return
    outputs = len(step.weight)
    rows = -(-outputs // max(-(-outputs // MAX_ROWS), 1))
    tiles = dict.fromkeys(_shapes(step, rows, scope))
    schedules = {schedule: geometry(step, schedule) for schedule in tiles}
    if _shares_pixels(step, scope.threads):
        even = {
            schedule: layout
            for schedule, layout in schedules.items()
            if layout.tiles % scope.threads == 0
        }
        schedules = even or schedules
    for schedule, layout in schedules.items():
        count = shapes.groups(layout.tiles, scope.threads, outputs)
        max_channels = min(step.x.shape[1], REACHED // max(layout.channel, 1))
        if schedule.packing != "none":
            max_channels = min(max_channels, PANEL_BYTES // (4 * max(layout.channel, 1)))
        panels = (min(int(max_terms / shapes.terms(step)), max_channels) for max_terms in MAX_TERMS)
        for channels in dict.fromkeys(max(each, 1) for each in panels if max_channels):
            yield replace(schedule, channels=channels, groups=count)


def suits(step: Conv, isa: Isa) -> bool:
    """Whether a layer's non-zeros may be instructions: there is code for it, and most are zero."""
    return isa.jit and shapes.density(step) <= MAX_DENSITY


def _shares_pixels(step: Conv, threads: int) -> bool:
    """Whether threads share pixels out, and not rows: programs are less than the input is."""
    read = 4 * step.x.shape[1] * pixels(step)
    programs = PROGRAM_BYTES * np.count_nonzero(step.weight)
    return bool(pixels(step) >= MIN_PIXELS * threads and read > programs)


def _shapes(step: Conv, rows: int, scope: Scope) -> Iterator[Schedule]:
    """Tiles of whole planes, or of parts of them that are as large as each other."""
    if is_flat(step):
        count, unit = -(-pixels(step) // 8), max(inside(step) // 8, 1)
        for max_width_x8 in (TILE_X8, TILE_X8 // 2, TILE_X8 // 4):
            shared = scope.threads if _shares_pixels(step, scope.threads) else 1
            tiles = -(-count // (max_width_x8 * shared)) * shared
            tile_width_x8 = -(-count // tiles)
            tile_width_x8 = -(-tile_width_x8 // unit) * unit
            tile_width_x8 += tile_width_x8 % 2
            if is_direct(step) and step.x.strides[1] % UNIT == 0:
                yield Schedule("jit", 1, tile_width_x8, 1, packing="none", rows=rows)
            yield Schedule("jit", 1, tile_width_x8, 1, rows=rows)
        return
    kernel = shapes.Rows("jit", rows)
    windows = list(shapes.window_shapes(step, kernel, TILE_X8))
    if inside(step) == 1 and step.strides == (1, 1):
        for schedule in shapes.shared_border_shapes(step, kernel, TILE_X8):
            windows.append(
                replace(schedule, tile_width_x8=schedule.tile_width_x8 + schedule.tile_width_x8 % 2)
            )
    yield from sorted(windows, key=lambda schedule: -schedule.elements)


def cycles(step: Conv, schedule: Schedule, scope: Scope) -> float:
    """The cycles of the busiest thread."""
    layout, lanes = geometry(step, schedule), scope.isa.lanes
    computed = _tile_cycles(step, schedule, lanes)
    copied = copied_cycles(step, schedule, layout, lanes)
    share = -(-layout.tiles * schedule.groups // scope.threads)
    return share / schedule.groups * computed + math.ceil(share / schedule.groups) * copied


def _tile_cycles(step: Conv, schedule: Schedule, lanes: int) -> float:
    """One tile by programs: multiplications, or whatever they wait for."""
    nonzeros, rows = int(np.count_nonzero(step.weight)), len(step.weight)
    panels, programs = -(-step.x.shape[1] // schedule.channels), -(-rows // schedule.rows)
    loads = program_loads(step, schedule)
    code = 8 * nonzeros + 10 * loads
    inner = max(nonzeros, WEIGHT * nonzeros + LOAD * loads)
    if code > L1_BYTES * programs * panels:
        inner = max(inner, code / CODE_BYTES)
    again = panels - (epilogue_of(step, schedule) is not None)
    accumulators = rows * (panels * ACCUMULATOR + again * RELOADED)
    accumulators += panels * programs * CALL
    from_memory = (code + 4 * nonzeros) / MEMORY_BYTES
    return float(max(schedule.elements / lanes * (inner + accumulators), from_memory))


def program_loads(step: Conv, schedule: Schedule) -> float:
    """Vectors of the input that all programs load for one of the output's, if zeros are random."""
    rows = len(step.weight)
    programs = -(-rows // schedule.rows)
    filled = int(np.count_nonzero(step.weight)) / max(step.weight.size, 1)
    return float(step.weight[0].size * programs * (1 - (1 - filled) ** (rows / programs)))
