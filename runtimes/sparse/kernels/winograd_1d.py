"""Several output rows at once with fewer products: Winograd F(m, r) along the rows, 1-D.

A phase of a window's rows with r taps gives m output rows from m + r - 1 input rows. Directly that
takes m r products of rows; F(m, r) takes m + r - 1, of transformed input rows and transformed taps
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1;
transforms by the Toom-Cook construction). The input is transformed once for all output channels.
The products of all channels, columns and phases that belong to one point of the construction are
summed before they are transformed back, for the way back knows the point alone.

Points are powers of two, chosen for their rounding (Barabasz et al., "Error Analysis and Improving
the Accuracy of Winograd Convolution for DNNs", 2020): F(2, r) is more accurate than the direct
sum, whose partial sums are longer, F(4, 3) and F(4, 4) are off by 1.1 and 1.4 times as much, and
not taken where a network amplifies that (see ``build.limit_rounding``). Dense layers only, for
scattered taps would fill up.

The transforms overflow where a direct sum does not, for inputs near the end of float32. A tile
whose result is not finite is computed again from its input times 2**-64, and the result times
2**64, which loses nothing (``pd_range`` in c/conv.h). Weights larger than ``MAX_WEIGHT`` leave no
room for that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels import packing
from prunedeploy.runtimes.sparse.kernels.cost import block_cycles, tiled_cycles
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.packing import FIRST, LAST
from prunedeploy.runtimes.sparse.kernels.shapes import DENSE, density, panels
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule import schedule as schedules
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry

OUTPUTS = (2, 4)  # rows at once that are known how: the pieces of a tile
MAX_TAPS = 4  # of a phase
POINTS = (0.0, 1.0, -1.0, -2.0, 0.5, 2.0)  # and infinity
SAVED = 0.8  # of the direct products that may be left for it to be worth it
END = 4  # flag of the last segment of a block in a panel
ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # output channels of a block
MAX_WEIGHT = 2.0**30  # finite as well
MAX_TERMS = 216  # of a row's sum within a panel: longer sums err more


@dataclass(frozen=True)
class _Segment:
    """All products of one point: rows of transformed input, and what the results are made of.

    Args:
        factors: of the point's sum in each of the m output rows.
        rows: (first tap of a phase, number of the transformed row in it) for each phase.
        weight: transformed taps [outputs, inputs, phases, columns].
    """

    factors: tuple[float, ...]
    rows: tuple[tuple[int, int], ...]
    weight: Array


def suits(step: Conv, outputs: int) -> bool:
    """Whether F(``outputs``, r) of the rows of ``step``'s window is worth it and known how."""
    return (
        step.groups == 1
        and step.dilations[0] == 1
        and step.y.shape[2] >= outputs
        and max(map(len, phases(step))) <= MAX_TAPS
        and products(step, outputs) <= SAVED * outputs * step.weight.shape[2]
        and in_range(step)
    )


def in_range(step: Conv) -> bool:
    """Whether transformed weights times a scaled input cannot overflow."""
    return bool(np.abs(step.weight).max(initial=0) <= MAX_WEIGHT)


def phases(step: Conv) -> list[list[int]]:
    """Rows of the window by phase."""
    height, stride = step.weight.shape[2], step.strides[0]
    return [list(range(phase, height, stride)) for phase in range(min(stride, height))]


def products(step: Conv, outputs: int) -> int:
    """Products of rows, for one column of the window and ``outputs`` rows of the result."""
    return sum(len(taps) + outputs - 1 for taps in phases(step))


def share_of_products(step: Conv, schedule: Schedule) -> float:
    """Share of the direct sum's products that is left."""
    return products(step, schedule.tile_rows) / float(schedule.tile_rows * step.weight.shape[2])


def segments(step: Conv, outputs: int) -> int:
    """Points that the products belong to."""
    return max(map(len, phases(step))) + outputs - 1


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a dense layer whose window has rows to share transforms."""
    if density(step) >= DENSE and not schedules.is_flat(step):
        yield from panels(step, _tiles(step, scope.isa.accumulators_x8), scope, MAX_TERMS)


def _tiles(step: Conv, accumulators_x8: int) -> Iterator[Schedule]:
    """Bands of rows of pixels; the sums are those of one transformed row."""
    pixel, whole = -(-schedules.inside(step) // 8), -(-schedules.row_size(step) // 8)
    for outputs in OUTPUTS:
        if not suits(step, outputs):
            continue
        for rows in ROWS:
            max_x8 = accumulators_x8 // (rows + 1) // pixel * pixel
            widths = {-(-whole // bands // pixel) * pixel for bands in range(1, whole + 1)}
            for tile_width_x8 in sorted(width for width in widths if width >= 2 or width == whole):
                if tile_width_x8 <= max_x8:
                    yield Schedule("winograd", outputs, tile_width_x8, 1, rows=rows)


def cycles(step: Conv, schedule: Schedule, scope: Scope) -> float:
    """The cycles of the busiest thread."""
    layout, blocks = geometry(step, schedule), math.ceil(len(step.weight) / schedule.rows)
    panel_count = -(-step.x.shape[1] // schedule.channels)
    columns = (
        step.weight[0].size // step.weight.shape[2] * products(step, schedule.tile_rows) * blocks
    )
    row_segments = blocks * panel_count * (1 + segments(step, schedule.tile_rows) / 2)
    # a product of Winograd's is one row of pixels
    inner = block_cycles(step, schedule, layout, scope.isa.lanes, tile_rows=1)
    return tiled_cycles(step, schedule, layout, scope, columns, row_segments, inner)


def filters(outputs: int, taps: int, points: tuple[float, ...] = POINTS) -> Array:
    """G of F(outputs, taps): [outputs + taps - 1, taps]."""
    finite = points[: outputs + taps - 2]
    rows = []
    for index, point in enumerate(finite):
        others = [point - other for k, other in enumerate(finite) if k != index]
        rows.append([point**power / np.prod(others) for power in range(taps)])
    return np.array([*rows, [0.0] * (taps - 1) + [1.0]])


def inputs(outputs: int, taps: int, points: tuple[float, ...] = POINTS) -> Array:
    """B^T of F(outputs, taps): [outputs + taps - 1, outputs + taps - 1]."""
    finite = points[: outputs + taps - 2]
    size = len(finite) + 1
    rows = np.zeros((size, size))
    for index in range(len(finite)):
        others = [other for k, other in enumerate(finite) if k != index]
        rows[index, : size - 1] = np.atleast_1d(np.poly(others))[::-1]
    rows[-1] = np.poly(finite)[::-1]
    return rows


def results(outputs: int, taps: int, points: tuple[float, ...] = POINTS) -> Array:
    """A^T of F(outputs, taps): [outputs, outputs + taps - 1]."""
    finite = points[: outputs + taps - 2]
    rows = [[point**power for power in range(outputs)] for point in finite]
    return np.array([*rows, [0.0] * (outputs - 1) + [1.0]]).T


def transforms(schedule: Schedule, geometry: schedules.Geometry) -> Array:
    """B^T of every phase of a packed channel, one behind the other, for pd_winograd_rows."""
    sizes = [phase.rows for phase in geometry.phases]
    matrices = [
        inputs(schedule.tile_rows, size - schedule.tile_rows + 1).reshape(-1) for size in sizes
    ]
    return np.concatenate(matrices).astype(np.float32)


def pack_winograd(
    step: Conv, schedule: Schedule, geometry: schedules.Geometry
) -> packing.PackedWeights:
    """The packed weights of ``step``: blocks of ``schedule.rows`` output channels.

    A block's part of a panel is one segment for each point, with the same columns for every block.
    A segment's weights begin with its factors.

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    outputs, size = step.weight.shape[0], schedule.rows
    panels = packing.panels_of(step.x.shape[1], schedule.channels)
    edges = packing.block_edges(outputs, size, schedule.groups)
    segments = _segments(step, schedule.tile_rows)
    parts = tuple(
        tuple(
            _part(geometry, segments, (number == 0, number == len(panels) - 1), span, group, size)
            for number, span in enumerate(panels)
        )
        for group in _groups(edges, size)
    )
    max_rows = max(high - low for low, high in itertools.pairwise(edges))
    return packing.PackedWeights(panels, parts, -(-max_rows // size) * size)


def _groups(edges: list[int], size: int) -> list[list[range]]:
    """For each group its blocks' rows."""
    return [
        [range(row, min(row + size, high)) for row in range(low, high, size)]
        for low, high in itertools.pairwise(edges)
    ]


def _segments(step: Conv, outputs: int) -> list[_Segment]:
    """By point: first the finite ones, then infinity, whatever its number in a phase."""
    by_point: dict[tuple[float, ...], list[tuple[tuple[int, int], Array]]] = {}
    for taps in phases(step):
        weight = _transformed(step.weight[:, :, taps], filters(outputs, len(taps)))
        factors = results(outputs, len(taps)).T
        for number, each in enumerate(weight):
            point = tuple(float(factor) for factor in factors[number])
            by_point.setdefault(point, []).append(((taps[0], number), each))
    return [
        _Segment(
            point,
            tuple(row for row, _ in each),
            np.stack([weight for _, weight in each], axis=2).astype(np.float32),
        )
        for point, each in by_point.items()
    ]


def _transformed(weight: Array, by: Array) -> Array:
    """Taps [outputs, inputs, taps, columns] as [points, outputs, inputs, columns]."""
    points = [
        sum(factor * weight[:, :, tap].astype(np.float64) for tap, factor in enumerate(row))
        for row in by
    ]
    return np.stack(points)


def _part(
    geometry: schedules.Geometry,
    segments: list[_Segment],
    edge: tuple[bool, bool],
    span: tuple[int, int],
    blocks: list[range],
    rows: int,
) -> packing.Part:
    low, high = span
    row_segments, weights = [], []
    channel = np.arange(high - low)[:, None, None] * geometry.channel
    offsets = []
    for segment in segments:
        tap_offsets = [
            np.array(geometry.taps[first]) + number * geometry.pitch
            for first, number in segment.rows
        ]
        offsets.append(((channel + np.stack(tap_offsets)) // geometry.unit).reshape(-1))
    if max(int(x.max(initial=0)) for x in offsets) >= schedules.MAX_OFFSET:
        raise ValueError("an offset does not fit into 16 bits")
    for block in blocks:
        for index, segment in enumerate(segments):
            count = offsets[index].size
            flags = FIRST * edge[0] | LAST * edge[1] | END * (index == len(segments) - 1)
            row_segments.append((block.start, count, flags))
            padded = np.zeros((count, rows), np.float32)
            here = segment.weight[block.start : block.stop, low:high]
            padded[:, : len(block)] = here.reshape(len(block), -1).T
            weights += [np.array(segment.factors, np.float32), padded.reshape(-1)]
    empty = np.zeros(0, np.float32)
    return packing.Part(
        blocks[0].start if blocks else 0,
        np.array(row_segments, packing.ROW_SEGMENT),
        np.concatenate(offsets).astype(np.uint16),  # the same for every block
        np.concatenate(weights or [empty]),
    )
