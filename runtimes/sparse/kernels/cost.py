"""The parts of the cost model that kernels share, in cycles of one core.

The model only has to rank schedules: the tuner measures its best few where the machine is at hand.
The figures come from micro-benchmarks and whole layers on x86 with AVX-512 (benchmarks/NOTES.md,
measured by benchmarks/machine.py and benchmarks/layers.py).
"""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Schedule, inside

L1 = 36 * 1024  # bytes of a panel up to which its loads come from the first-level cache
L2_LOADS = 0.75  # what loads cost more where the panel is far larger than that
SPLIT = 0.95  # what a load costs more that crosses a cache line
WEIGHT = 0.7  # of a non-zero: its weight spread over a vector, its offset
ROW_SEGMENT = 8.0  # of a row in a panel, whatever its length
ACCUMULATOR = 2.0  # of a vector of accumulators: stored at the end of a visit
RELOADED = 1.5  # and, where a row goes on in the next panel, reloaded
COPY = 1.5  # of a vector copied into a packed panel
COPY_WINDOW = 3.0  # with its border of zeros
COPY_GATHER = 18.0  # element by element
COPY_INTERLEAVED = 4.5  # every second or fourth element of a row
COPY_STRIDED = 6.0  # every second element


def tiled_cycles(
    step: Conv,
    schedule: Schedule,
    layout: Geometry,
    scope: Scope,
    columns: float,
    row_segments: float,
    inner: float,
) -> float:
    """Cycles of the busiest thread.

    Args:
        step: the layer.
        schedule: how it is cut.
        layout: the tile of this schedule.
        scope: instruction set and threads.
        columns: weights, or columns of a block, that a tile is multiplied by.
        row_segments: how many rows, or blocks of rows, meet a panel.
        inner: cycles of one column and a tile.
    """
    lanes = scope.isa.lanes
    panels = -(-step.x.shape[1] // schedule.channels)
    vectors = schedule.rows * schedule.elements / lanes
    row_segment = ROW_SEGMENT + vectors * (ACCUMULATOR + (RELOADED if panels > 1 else 0))
    computed = columns * inner + row_segments * row_segment
    share = -(-layout.tiles * schedule.groups // scope.threads)
    copied = math.ceil(share / schedule.groups) * copied_cycles(step, schedule, layout, lanes)
    return share / schedule.groups * computed + copied


def row_cycles(step: Conv, schedule: Schedule, layout: Geometry, lanes: int) -> float:
    """Cycles of one non-zero and a tile, where rows are computed one by one."""
    return _loads(step, schedule, layout, lanes, _rows_of_pixels(schedule)) + WEIGHT


def block_cycles(
    step: Conv, schedule: Schedule, layout: Geometry, lanes: int, tile_rows: int | None = None
) -> float:
    """Cycles of one column of a block of rows and a tile of ``tile_rows`` rows of pixels."""
    tile_rows = tile_rows or _rows_of_pixels(schedule)
    loads = _loads(step, schedule, layout, lanes, tile_rows)
    vectors = tile_rows * schedule.tile_width_x8 * 8 / lanes
    return max(schedule.rows * vectors, loads + schedule.rows * 0.5) + 0.15 * loads + 0.5


def _rows_of_pixels(schedule: Schedule) -> int:
    return 1 if schedule.packing == "shared_border" else schedule.tile_rows


def _loads(step: Conv, schedule: Schedule, layout: Geometry, lanes: int, tile_rows: int) -> float:
    """Loads of a tile's vectors, weighed by what they cost."""
    whole, half = divmod(schedule.tile_width_x8 * 8, lanes)
    split = 0.0
    if not layout.flat and schedule.packing != "copies" and layout.unit == 1:
        kernel = step.weight.shape[3]
        split = SPLIT * (kernel - 1) / kernel * min(1.0, lanes / 16)
    # rows of half a vector start on a line's first half: they never cross into the next
    loads = tile_rows * (whole * (1 + split) + (0.5 if half else 0))
    width = (
        schedule.tile_width_x8 * 8
        if layout.flat and schedule.packing != "im2col"
        else layout.channel
    )
    size = 4 * schedule.channels * width
    return loads * (1 + L2_LOADS * max(0.0, 1 - L1 / size))


def copied_cycles(step: Conv, schedule: Schedule, layout: Geometry, lanes: int) -> float:
    """Cycles of the copy of one tile's input."""
    if layout.flat and schedule.packing == "none":
        return 0.0
    if schedule.packing == "im2col":
        return step.x.shape[1] * layout.channel / max(lanes, 4) * COPY_GATHER
    width = schedule.tile_width_x8 * 8 if layout.flat else layout.channel
    strided = max(step.strides) > 1 and layout.unit == 1 and inside(step) == 1
    shifted = not layout.flat and layout.unit == 1
    cost = COPY_STRIDED if strided else COPY_WINDOW if shifted else COPY
    cost = COPY_INTERLEAVED if schedule.packing == "interleaved" else cost
    return step.x.shape[1] * width / max(lanes, 4) * cost
