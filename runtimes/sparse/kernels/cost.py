"""The parts of the cost model that kernels share, in cycles of one core.

The model only has to rank schedules: the tuner measures its best few where the machine is at hand.
The figures come from micro-benchmarks and whole layers on x86 with AVX-512 (benchmarks/NOTES.md,
measured by benchmarks/machine.py and benchmarks/layers.py).
"""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Tiling, inside

L1 = 36 * 1024  # bytes of a panel up to which its loads come from the first-level cache
L2_LOADS = 0.75  # what loads cost more where the panel is far larger than that
SPLIT = 0.95  # what a load costs more that crosses a cache line
WEIGHT = 0.7  # of a non-zero: its weight spread over a vector, its offset
VISIT = 8.0  # of a row in a panel, whatever its length
SUM = 2.0  # of a vector of sums: stored at the end of a visit
RESUMED = 1.5  # and, where a row goes on in the next panel, fetched again
COPY = 1.5  # of a vector copied into a packed panel
COPY_WINDOW = 3.0  # with its border of zeros
COPY_GATHER = 18.0  # element by element
COPY_COMBED = 4.5  # every second or fourth element of a row
COPY_STRIDED = 6.0  # every second element


def tiled_cycles(
    step: Conv,
    way: Tiling,
    layout: Geometry,
    scope: Scope,
    columns: float,
    visits: float,
    inner: float,
) -> float:
    """Cycles of the busiest thread.

    Args:
        step: the layer.
        way: its schedule.
        layout: the tile of this schedule.
        scope: instruction set and threads.
        columns: weights, or columns of a block, that a tile is multiplied by.
        visits: how many rows, or blocks of rows, meet a panel.
        inner: cycles of one column and a tile.
    """
    lanes = scope.isa.lanes
    panels = -(-step.x.shape[1] // way.channels)
    vectors = way.rows * way.elements / lanes
    visit = VISIT + vectors * (SUM + (RESUMED if panels > 1 else 0))
    computed = columns * inner + visits * visit
    share = -(-layout.tiles * way.groups // scope.threads)
    copied = math.ceil(share / way.groups) * copied_cycles(step, way, layout, lanes)
    return share / way.groups * computed + copied


def row_cycles(step: Conv, way: Tiling, layout: Geometry, lanes: int) -> float:
    """Cycles of one non-zero and a tile, where rows are computed one by one."""
    return _loads(step, way, layout, lanes, _rows_of_pixels(way)) + WEIGHT


def block_cycles(
    step: Conv, way: Tiling, layout: Geometry, lanes: int, pieces: int | None = None
) -> float:
    """Cycles of one column of a block of rows and a tile of ``pieces`` rows of pixels."""
    pieces = pieces or _rows_of_pixels(way)
    loads = _loads(step, way, layout, lanes, pieces)
    vectors = pieces * way.eighths * 8 / lanes
    return max(way.rows * vectors, loads + way.rows * 0.5) + 0.15 * loads + 0.5


def _rows_of_pixels(way: Tiling) -> int:
    return 1 if way.packing == "raster" else way.pieces


def _loads(step: Conv, way: Tiling, layout: Geometry, lanes: int, pieces: int) -> float:
    """Loads of a tile's vectors, weighed by what they cost."""
    whole, half = divmod(way.eighths * 8, lanes)
    split = 0.0
    if not layout.flat and way.packing != "copies" and layout.unit == 1:
        kernel = step.weight.shape[3]
        split = SPLIT * (kernel - 1) / kernel * min(1.0, lanes / 16)
    # rows of half a vector start on a line's first half: they never cross into the next
    loads = pieces * (whole * (1 + split) + (0.5 if half else 0))
    width = way.eighths * 8 if layout.flat and way.packing != "im2col" else layout.channel
    size = 4 * way.channels * width
    return loads * (1 + L2_LOADS * max(0.0, 1 - L1 / size))


def copied_cycles(step: Conv, way: Tiling, layout: Geometry, lanes: int) -> float:
    """Cycles of the copy of one tile's input."""
    if layout.flat and way.packing == "none":
        return 0.0
    if way.packing == "im2col":
        return step.x.shape[1] * layout.channel / max(lanes, 4) * COPY_GATHER
    width = way.eighths * 8 if layout.flat else layout.channel
    strided = max(step.strides) > 1 and layout.unit == 1 and inside(step) == 1
    shifted = not layout.flat and layout.unit == 1
    cost = COPY_STRIDED if strided else COPY_WINDOW if shifted else COPY
    cost = COPY_COMBED if way.packing == "comb" else cost
    return step.x.shape[1] * width / max(lanes, 4) * cost
