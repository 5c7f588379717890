"""A model of what a tiling costs, in cycles of one core.

It only has to rank: ``tune`` measures its best few where the machine is at hand. The figures come
from micro-benchmarks and whole layers on x86 with AVX-512 (see benchmarks/NOTES.md).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels import jit as unrolled
from prunedeploy.runtimes.sparse.kernels import mixed as blocks
from prunedeploy.runtimes.sparse.kernels import winograd_1d as winograd
from prunedeploy.runtimes.sparse.kernels import winograd_2d as winograd2d
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Tiling, geometry, inside

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
PATCH = 10.0  # of a row of pixels under eight tiles of minimal filtering, taken apart
TURN = 7.5  # of a point of a vector of tiles, from its pixels
TURN_BACK = 6.5  # of such a point, to pixels and into memory
UNROLLED_WEIGHT = 0.5  # of a non-zero that is an instruction: its weight
UNROLLED_LOAD = 1.2  # and of a vector of the input that a program loads, for all its rows
UNROLLED_CODE = 9.0  # bytes of instructions that come in a cycle where a program is no longer in
UNROLLED_L1 = 28 * 1024  # the first-level cache, which holds so many
UNROLLED_FETCH = 4.0  # bytes of programs that come in a cycle from memory
UNROLLED_SUM = 3.0  # of a vector of sums: begun, finished or put away
UNROLLED_RESUMED = 2.0  # and fetched again, by the next panel's program or to be finished
UNROLLED_CALL = 15.0  # of a program on a vector
L2 = 768 * 1024  # bytes that stay in the second-level cache
L3_LOADS = 1.5  # what loads cost more beyond it


def cycles(
    step: Conv, way: Tiling, isa: str, threads: int, work: blocks.Work | None = None
) -> float:
    """What the busiest thread of ``threads`` needs; in "mixed", of ``work`` if it is given."""
    layout = geometry(step, way)
    lanes = ISAS[isa].lanes
    if way.kernel == "winograd2d":
        return _squares(step, way, layout, lanes, threads)
    if way.kernel == "unrolled":
        computed, copied = _unrolled(step, way, lanes), _copied(step, way, layout, lanes)
        share = -(-layout.tiles * way.groups // threads)
        return share / way.groups * computed + math.ceil(share / way.groups) * copied
    panels = -(-step.x.shape[1] // way.channels)
    inner = _inner(step, way, layout, lanes)
    columns: float
    visits: float
    if way.kernel == "mixed":
        work = work or blocks.work(step, way.rows, way.fill)
        single = replace(way, kernel="rows", rows=1)
        # rows for themselves count as part of a block's column
        columns = work.columns + work.nonzeros * _inner(step, single, layout, lanes) / inner
        visits = (work.chunks + work.rows / way.rows) * panels
    elif way.kernel == "winograd":
        blocked, height = math.ceil(len(step.weight) / way.rows), step.weight.shape[2]
        products = winograd.products(step, way.pieces)
        columns = step.weight[0].size // height * products * blocked
        visits = blocked * panels * (1 + winograd.segments(step, way.pieces) / 2)
    elif way.kernel == "block":
        columns = step.weight[0].size * math.ceil(len(step.weight) / way.rows)
        visits = math.ceil(len(step.weight) / way.rows) * panels
    else:
        columns = int(np.count_nonzero(step.weight))
        visits = min(len(step.weight) * panels, columns + len(step.weight))
    vectors = way.rows * way.elements / lanes
    visit = VISIT + vectors * (SUM + (RESUMED if panels > 1 else 0))
    computed = columns * inner + visits * visit
    items = layout.tiles * way.groups
    share = -(-items // threads)
    copied = math.ceil(share / way.groups) * _copied(step, way, layout, lanes)
    return share / way.groups * computed + copied


def _unrolled(step: Conv, way: Tiling, lanes: int) -> float:
    """One tile by programs: multiplications, or whatever they wait for."""
    nonzeros, rows = int(np.count_nonzero(step.weight)), len(step.weight)
    panels, programs = -(-step.x.shape[1] // way.channels), -(-rows // way.rows)
    loads = program_loads(step, way)
    code = 8 * nonzeros + 10 * loads
    inner = max(nonzeros, UNROLLED_WEIGHT * nonzeros + UNROLLED_LOAD * loads)
    if code > UNROLLED_L1 * programs * panels:
        inner = max(inner, code / UNROLLED_CODE)
    again = panels - (unrolled.ending_of(step, way) is not None)
    sums = rows * (panels * UNROLLED_SUM + again * UNROLLED_RESUMED)
    sums += panels * programs * UNROLLED_CALL
    fetched = (code + 4 * nonzeros) / UNROLLED_FETCH
    return float(max(way.elements / lanes * (inner + sums), fetched))


def program_loads(step: Conv, way: Tiling) -> float:
    """Vectors of the input that all programs load for one of the output's, if zeros are random."""
    rows = len(step.weight)
    programs = -(-rows // way.rows)
    filled = int(np.count_nonzero(step.weight)) / max(step.weight.size, 1)
    return float(step.weight[0].size * programs * (1 - (1 - filled) ** (rows / programs)))


def _squares(step: Conv, way: Tiling, layout: Geometry, lanes: int, threads: int) -> float:
    """Minimal filtering both ways: transforms and one product of matrices a point."""
    tiles, outputs = way.eighths * 8, way.pieces
    size = winograd2d.size(step, outputs)
    vectors, points = tiles / lanes, size**2
    rows, channels = len(step.weight), winograd2d.channels(step)
    strips = tiles / inside(step) / min(winograd2d.across(step, outputs), winograd2d.STRIP)
    turned = channels * (vectors * TURN * points + strips * size * PATCH * step.strides[0])
    loads = vectors * (1 + L2_LOADS)
    if 4 * points * channels * tiles > L2:
        loads += vectors * L3_LOADS
    inner = max(way.rows * vectors, loads + way.rows * 0.5) + 0.15 * loads + 0.5
    block = points * (channels * inner + VISIT + way.rows * vectors * SUM)
    block += way.rows * vectors * TURN_BACK * points
    share = -(-layout.tiles * way.groups // threads)
    computed = math.ceil(rows / way.rows) * block
    return float(share / way.groups * computed + math.ceil(share / way.groups) * turned)


def _inner(step: Conv, way: Tiling, layout: Geometry, lanes: int) -> float:
    """Of one weight (or, in a block, one column) and a tile."""
    whole, half = divmod(way.eighths * 8, lanes)
    split = 0.0
    if not layout.flat and way.packing != "copies" and layout.unit == 1:
        kernel = step.weight.shape[3]
        split = SPLIT * (kernel - 1) / kernel * min(1.0, lanes / 16)
    # rows of half a vector start on a line's first half: they never cross into the next
    # a product of minimal filtering is one row
    pieces = 1 if way.kernel == "winograd" or way.packing == "raster" else way.pieces
    loads = pieces * (whole * (1 + split) + (0.5 if half else 0))
    width = way.eighths * 8 if layout.flat and way.packing != "im2col" else layout.channel
    size = 4 * way.channels * width
    loads *= 1 + L2_LOADS * max(0.0, 1 - L1 / size)
    if way.kernel == "rows":
        return loads + WEIGHT
    vectors = pieces * way.eighths * 8 / lanes
    return max(way.rows * vectors, loads + way.rows * 0.5) + 0.15 * loads + 0.5


def _copied(step: Conv, way: Tiling, layout: Geometry, lanes: int) -> float:
    """Of one tile's input."""
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
