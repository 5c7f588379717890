"""The kernel "block": dense layers, several output rows at a time (c/block.h)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels import packing
from prunedeploy.runtimes.sparse.kernels.cost import block_cycles, tiled_cycles
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.packing import FIRST, LAST
from prunedeploy.runtimes.sparse.kernels.shapes import DENSE, Rows, density, panels, tiles
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import MAX_OFFSET, Geometry, Schedule, geometry

ROWS = (4, 6, 8, 12, 14)  # rows that are computed at once
MAX_TERMS = 512  # of a row's sum within a panel: longer sums err more


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a dense layer."""
    if density(step) >= DENSE:
        for rows in ROWS:
            shapes = tiles(step, Rows("block", rows, ("im2col",)), scope)
            yield from panels(step, shapes, scope, MAX_TERMS)


def cycles(step: Conv, schedule: Schedule, scope: Scope) -> float:
    """The cycles of the busiest thread."""
    layout, blocks = geometry(step, schedule), math.ceil(len(step.weight) / schedule.rows)
    columns = step.weight[0].size * blocks
    row_segments = blocks * -(-step.x.shape[1] // schedule.channels)
    inner = block_cycles(step, schedule, layout, scope.isa.lanes)
    return tiled_cycles(step, schedule, layout, scope, columns, row_segments, inner)


def pack_block(step: Conv, schedule: Schedule, geometry: Geometry) -> packing.PackedWeights:
    """The packed weights of ``step`` for the kernel "block": blocks of ``schedule.rows`` rows.

    A block holds every column of its panel that any of its rows has a non-zero in.
    """
    outputs, size = step.weight.shape[0], schedule.rows
    panels = packing.panels_of(step.x.shape[1], schedule.channels)
    edges = packing.block_edges(outputs, size, schedule.groups)
    parts = tuple(
        _block_parts(step, geometry, panels, begin, end, size)
        for begin, end in itertools.pairwise(edges)
    )
    max_blocks = max(-(-(end - begin) // size) for begin, end in itertools.pairwise(edges))
    return packing.PackedWeights(panels, parts, max_blocks * size)


def _block_parts(
    step: Conv,
    geometry: Geometry,
    panels: tuple[tuple[int, int], ...],
    begin: int,
    end: int,
    size: int,
) -> tuple[packing.Part, ...]:
    group = step.weight.shape[0] // step.groups
    parts: list[packing.Part] = []
    for number, (low, high) in enumerate(panels):
        row_segments: list[tuple[int, int, int]] = []
        offsets: list[packing.Ints] = []
        weights: list[Array] = []
        for row in range(begin, end, size):
            rows = np.arange(row, min(row + size, end))
            block, offset = _block(step, geometry, rows, low, high, group)
            flags = FIRST * (number == 0) + LAST * (number == len(panels) - 1)
            if offsets and np.array_equal(offset, offsets[-1]):
                row_segments[-1] = (*row_segments[-1][:2], row_segments[-1][2] | packing.SHARED)
                offsets[-1] = offset[:0]
            row_segments.append((row, offset.size, flags))
            offsets.append(offset)
            padded = np.zeros((offset.size, size), np.float32)
            padded[:, : rows.size] = block.T
            weights.append(padded)
        empty = np.zeros(0, np.float32)
        parts.append(
            packing.Part(
                begin,
                np.array(row_segments, packing.ROW_SEGMENT),
                np.concatenate([*offsets, empty]).astype(np.uint16),
                np.concatenate([x.reshape(-1) for x in weights] or [empty]),
            )
        )
    return tuple(parts)


def _block(
    step: Conv, geometry: Geometry, rows: packing.Ints, low: int, high: int, group: int
) -> tuple[Array, packing.Ints]:
    """The weights [rows, columns] of a block in a panel's channels, and the columns' offsets."""
    width = step.weight.shape[1]
    channels = np.arange(low, high)
    dense = np.zeros((rows.size, high - low, *step.weight.shape[2:]), np.float32)
    for index, row in enumerate(rows):
        start = int(row) // group * width  # the first input channel of this row's group
        begin, end = max(low, start), min(high, start + width)
        if begin < end:
            dense[index, begin - low : end - low] = step.weight[row, begin - start : end - start]
    used = (dense != 0).any(0)
    taps = np.array(geometry.taps, np.int64)
    offset = ((channels - low)[:, None, None] * geometry.channel + taps) // geometry.unit
    if offset[used].size and offset[used].max() >= MAX_OFFSET:
        raise ValueError(f"an offset of {offset[used].max()} units does not fit into 16 bits")
    return dense[:, used], offset[used]
