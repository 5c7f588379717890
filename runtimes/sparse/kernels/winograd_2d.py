"""Dense windows with fewer products: Winograd F(m x m, r x r), 2-D.

The result is cut into tiles of m x m pixels. Directly a tile takes r^2 m^2 products a pair of
channels for r x r taps; F(m x m, r x r) takes (m + r - 1)^2, of transformed pixels and transformed
weights: 4 instead of 9 a pixel for m = 2 and r = 3, 2.25 for m = 4 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.2). Products of one point are
summed over all channels before they are transformed back, so each point is a product of matrices:
[outputs, inputs] by [inputs, tiles]. A stride is taken apart into phases, each a channel of its own
with every second tap: a 7x7 window of stride 2 is one of 4x4 taps over four times the channels.

Points come in pairs of both signs, for half of a transform is the same for both then. They were
chosen for their rounding among small binary fractions: on average twice that of a direct sum of the
same length for m + r = 7, where 0, 1, -1, 2, -2 has five times it. F(2 x 2, 3 x 3) is more accurate
than the direct sum, F(2 x 2, 4 x 4) as accurate. F(4 x 4, 4 x 4) is off by 3.6 times as much at the
best: too much for the first layer of a deep network, where it would save a fifth of the time. The
kernel makes long sums of short ones, which is worth more than the points (c/tiles.h). Inputs near
the end of float32 are treated as in winograd_1d.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.isa import Isa
from prunedeploy.runtimes.sparse.kernels.cost import ACCUMULATOR, L2_LOADS, ROW_SEGMENT
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.shapes import density, groups
from prunedeploy.runtimes.sparse.kernels.winograd_1d import filters, in_range
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import EIGHT, Geometry, Schedule, inside, pixels

OUTPUTS = (2, 3, 4)  # rows and columns of a tile
POINTS = {  # by outputs and taps; and infinity
    (2, 3): (0.0, 1.0, -1.0),
    (4, 3): (0.0, 0.625, -0.625, 1.5, -1.5),
    (2, 4): (0.3125, -0.3125, 1.25, -1.25),
    (3, 4): (0.0, 0.625, -0.625, 1.5, -1.5),
}
STAGGER = 16  # floats, so that points do not all want the same place in the cache
STRIP = 8  # tiles; see pd_strip
MAX_LANES = 128  # tiles of a group
MAX_PADDING = 8
SAVING = 2 / 3  # of the direct products that may be left for it to be worth it
ROWS = (4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16)  # output channels of a block
MIN_DENSITY = 0.2  # it needs a quarter of the dense products
MAX_TRANSFORMED = 1 << 20  # floats of transformed input that a thread may hold

# cycles, measured as those of kernels/cost.py are
PATCH = 10.0  # of a row of pixels under eight tiles, taken apart
TURN = 7.5  # of a point of a vector of tiles, from its pixels
TURN_BACK = 6.5  # of such a point, to pixels and into memory
L2 = 768 * 1024  # bytes that stay in the second-level cache
L3_LOADS = 1.5  # what loads cost more beyond it


def suits(step: Conv, outputs: int) -> bool:
    """Whether tiles of ``outputs`` x ``outputs`` are known for ``step`` and save a third."""
    return (
        step.groups == 1
        and step.strides in ((1, 1), (2, 2))
        and step.dilations == (1, 1)
        and (outputs, taps(step)) in POINTS
        and max(step.pads) <= MAX_PADDING
        and min(step.y.shape[2:]) >= outputs
        and inside(step) in (1, *range(EIGHT, MAX_LANES + 1, EIGHT))
        and _products(step, outputs) < SAVING * step.weight[0].size * pixels(step)
        and in_range(step)
    )


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a dense layer: whole vectors of tiles, all channels at once."""
    if density(step) >= MIN_DENSITY:
        yield from _groups_of_tiles(step, scope)


def _groups_of_tiles(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Vectors of tiles and blocks of rows that fit the registers."""
    lanes, (rows, inputs) = scope.isa.lanes, step.weight.shape[:2]
    known = [m for m in OUTPUTS if lanes > 1 and suits(step, m)]
    for outputs, lane_count in ((m, n) for m in known for n in _lanes(step, scope.isa, m)):
        group_count = -(-tiles(step, outputs) // lane_count)
        for block in (
            block for block in ROWS if block * lane_count <= scope.isa.accumulators * lanes
        ):
            shared = groups(group_count, scope.threads, -(-rows // block) * 4)
            yield Schedule("winograd2d", outputs, lane_count // 8, inputs, shared, rows=block)


def _lanes(step: Conv, isa: Isa, outputs: int) -> Iterator[int]:
    """Tiles that are computed at once: whole vectors, until all are or the scratch is full."""
    unit = math.lcm(max(isa.lanes, 8), inside(step))
    max_lanes = min(-(-tiles(step, outputs) // unit) * unit, MAX_LANES)
    transformed_floats = size(step, outputs) ** 2 * channels(step)
    return (
        n
        for n in range(unit, max_lanes + 1, unit)
        if n == unit or transformed_floats * n <= MAX_TRANSFORMED
    )


def cycles(step: Conv, schedule: Schedule, scope: Scope) -> float:
    """The cycles of the busiest thread: transforms, and one product of matrices for each point."""
    layout, lanes = geometry(step, schedule), scope.isa.lanes
    lanes_at_once, outputs = schedule.tile_width_x8 * 8, schedule.tile_rows
    side = size(step, outputs)
    vectors, points = lanes_at_once / lanes, side**2
    rows, inputs = len(step.weight), channels(step)
    strips = lanes_at_once / inside(step) / min(across(step, outputs), STRIP)
    turned = inputs * (vectors * TURN * points + strips * side * PATCH * step.strides[0])
    loads = vectors * (1 + L2_LOADS)
    if 4 * points * inputs * lanes_at_once > L2:
        loads += vectors * L3_LOADS
    inner = max(schedule.rows * vectors, loads + schedule.rows * 0.5) + 0.15 * loads + 0.5
    block = points * (inputs * inner + ROW_SEGMENT + schedule.rows * vectors * ACCUMULATOR)
    block += schedule.rows * vectors * TURN_BACK * points
    share = -(-layout.tiles * schedule.groups // scope.threads)
    computed = math.ceil(rows / schedule.rows) * block
    return float(share / schedule.groups * computed + math.ceil(share / schedule.groups) * turned)


def geometry(step: Conv, schedule: Schedule) -> Geometry:
    """Groups of tiles from anywhere in the batch; nothing is read where it lies."""
    lane_count, (images, _, height, width) = schedule.tile_width_x8 * EIGHT, step.y.shape
    count = images * -(-height // schedule.tile_rows) * -(-width // schedule.tile_rows)
    return Geometry(
        False, -(-count // lane_count), schedule.tile_rows, lane_count, 0, 0, 1, (), ((0,),)
    )


def describe(schedule: Schedule) -> str:
    """The schedule as reports name it."""
    rows = f" {schedule.rows}" if schedule.rows > 1 else ""
    tiles_at_once = (
        f"{schedule.tile_rows}x{schedule.tile_rows}, {schedule.tile_width_x8 * EIGHT} at once"
    )
    return f"{schedule.kernel}{rows} {tiles_at_once}, {schedule.groups} groups"


def taps(step: Conv) -> int:
    """Rows and columns of the window that one phase has."""
    return int(-(-max(step.weight.shape[2:]) // step.strides[0]))


def size(step: Conv, outputs: int) -> int:
    """Points of a row or column of a tile."""
    return outputs + taps(step) - 1


def channels(step: Conv) -> int:
    """Input channels, each phase for itself."""
    return step.x.shape[1] * step.strides[0] ** 2


def point(step: Conv, schedule: Schedule) -> int:
    """Floats from one point's transformed input to the next."""
    return channels(step) * schedule.tile_width_x8 * EIGHT + STAGGER


def _products(step: Conv, outputs: int) -> int:
    """The products of all tiles, for one output channel."""
    return size(step, outputs) ** 2 * channels(step) * tiles(step, outputs)


def share_of_products(step: Conv, schedule: Schedule) -> float:
    """Share of the direct sum's products that is left."""
    points = size(step, schedule.tile_rows) ** 2 * channels(step)
    return float(points / schedule.tile_rows**2 / step.weight[0].size)


def down(step: Conv, outputs: int) -> int:
    """Rows of tiles of an image."""
    return -(-step.y.shape[2] // outputs)


def across(step: Conv, outputs: int) -> int:
    """Tiles of such a row."""
    return -(-step.y.shape[3] // outputs)


def tiles(step: Conv, outputs: int) -> int:
    """All tiles of the batch."""
    return step.y.shape[0] * down(step, outputs) * across(step, outputs)


def apart(step: Conv) -> Array:
    """The weights of every phase: [outputs, channels, taps, taps], zeros where it has fewer."""
    rows, inputs, height, width = step.weight.shape
    stride, count = step.strides[0], taps(step)
    padded = np.zeros((rows, inputs, count * stride, count * stride), np.float32)
    padded[:, :, :height, :width] = step.weight
    split = padded.reshape(rows, inputs, count, stride, count, stride)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(rows, -1, count, count)


def transformed(weight: Array, outputs: int) -> Array:
    """Weights [outputs, inputs, r, r] as G w G^T: [points, outputs, inputs] in float64."""
    count = weight.shape[-1]
    by = filters(outputs, count, POINTS[outputs, count]).astype(np.float64)
    half = np.tensordot(by, weight.astype(np.float64), (1, 2))  # [point, outputs, inputs, r]
    points = np.tensordot(by, half, (1, 3)).swapaxes(0, 1)
    return points.reshape(-1, *weight.shape[:2])


def blocks(step: Conv, schedule: Schedule) -> Array:
    """Weights as the kernel reads them: [block, point, channel, row of the block]."""
    rows, each = len(step.weight), schedule.rows
    count = -(-rows // each)
    points = transformed(apart(step), schedule.tile_rows)
    padded = np.zeros((len(points), count * each, channels(step)), np.float32)
    padded[:, :rows] = points
    split = padded.reshape(len(points), count, each, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 3, 2))
