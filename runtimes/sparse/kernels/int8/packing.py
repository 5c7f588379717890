"""A layer's weights as the kernel reads them: groups of rows, panels of quadruples of columns.

A column is one weight of the window and one input channel: the bytes of its pixels are at a fixed
offset from the result's. Weights that a signed byte does not hold, which a zero point far from the
middle makes, are two weights of the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.kernels.int8.grouping import GROUP_ROWS, QUAD, Ints, quadruples
from prunedeploy.runtimes.sparse.plan import unfold
from prunedeploy.runtimes.sparse.plan.quantised import Conv8

PANEL = 128  # quadruples: 32 KiB of the first-level cache with 64 pixels of each


@dataclass(frozen=True)
class Part:
    """Some rows and the quadruples of one panel.

    Args:
        first: row of the layer.
        rows: their number.
        offset: int32 [quadruples, 4], bytes from the result's pixel to the column's.
        tap: uint8 [quadruples, 4], the column's place in the window.
        count: int32 [rows], entries of each.
        quad: uint16, of each entry its quadruple in the panel.
        weight: int8 [entries, 4].
    """

    first: int
    rows: int
    offset: Array
    tap: Array
    count: Array
    quad: Array
    weight: Array


@dataclass(frozen=True)
class PackedLayer:
    """``parts`` of every group of rows, all with the same number of panels."""

    parts: tuple[tuple[Part, ...], ...]
    panels: int
    bias: Array

    @property
    def entries(self) -> int:
        """Multiplications of a vector of pixels."""
        return sum(part.quad.size for group in self.parts for part in group)

    @property
    def quads(self) -> int:
        """Quadruples that are packed for every tile."""
        return sum(len(part.offset) for group in self.parts for part in group)


def window_of(step: Conv8) -> unfold.Window:
    """The geometry of a layer."""
    return unfold.Window(
        (step.weight.shape[2], step.weight.shape[3]),
        (step.y.shape[2], step.y.shape[3]),
        step.strides,
        step.pads,
        step.dilations,
    )


def pack(step: Conv8) -> PackedLayer:
    """The weights of ``step``, and its biases with the input's zero point taken off."""
    rows, taps = step.weight.shape[0], step.weight[0, 0].size
    window = window_of(step)
    at = unfold.tap_offsets(step.image, window, step.unfolded).reshape(-1)
    stride = step.x.strides[0] if step.unfolded else step.x.strides[1]
    groups = [
        _group(step, first, min(GROUP_ROWS, rows - first), at, taps, stride)
        for first in range(0, rows, GROUP_ROWS)
    ]
    panels = max(len(group) for group in groups)
    padded = tuple((*group, *[_empty(group[0])] * (panels - len(group))) for group in groups)
    moved = step.weight.astype(np.int64).sum(axis=(1, 2, 3)) * step.x_zero
    bias = (step.bias.astype(np.int64) - moved).astype(np.uint64).astype(np.uint32).view(np.int32)
    return PackedLayer(padded, panels, bias)


def _group(
    step: Conv8, first: int, count: int, at: Ints, taps: int, stride: int
) -> tuple[Part, ...]:
    matrix, columns = _matrix(step, first, count)
    weights, columns = _in_bytes(matrix, columns)
    four = quadruples(weights)
    channel, tap = np.divmod(columns, taps)
    offset = channel * stride + at[tap]
    panels = range(0, max(len(four), 1), PANEL)
    return tuple(_part(first, weights, four[p : p + PANEL], offset, tap) for p in panels)


def _in_bytes(matrix: Ints, columns: Ints) -> tuple[Ints, Ints]:
    """The matrix of signed bytes: what one cannot hold is in further columns of the same pixels."""
    parts: list[Ints] = []
    sources: list[Ints] = []
    left = matrix
    while not parts or left.size:
        part = np.clip(left, -128, 127)
        parts.append(part)
        sources.append(columns)
        over = np.flatnonzero((left != part).any(axis=0))
        left, columns = (left - part)[:, over], columns[over]
    return np.concatenate(parts, axis=1), np.concatenate(sources)


def _matrix(step: Conv8, first: int, count: int) -> tuple[Ints, Ints]:
    """Rows of the weights as a matrix, and which channel and tap each of its columns is."""
    rows, depth = step.weight.shape[:2]
    flat = step.weight[first : first + count].reshape(count, -1).astype(np.int64)
    size, width = rows // step.groups, flat.shape[1]
    group = np.arange(first, first + count) // size
    begin = int(group[0])
    wide = np.zeros((count, (int(group[-1]) + 1 - begin) * width), np.int64)
    at = (group - begin)[:, None] * width + np.arange(width)
    np.put_along_axis(wide, at, flat, axis=1)
    taps = step.weight[0, 0].size
    return wide, np.arange(wide.shape[1]) + begin * depth * taps


def _part(first: int, weights: Ints, four: Ints, offset: Ints, tap: Ints) -> Part:
    # an empty place reads what another of the quadruple reads, times zero
    known = np.where(four < 0, four[:, :1], four)
    own = np.where(four < 0, 0, weights[:, known]).astype(np.int8)  # [rows, quadruples, 4]
    row, quad = np.nonzero(own.any(axis=2))
    return Part(
        first,
        len(weights),
        offset[known].astype(np.int32).reshape(-1, QUAD),
        tap[known].astype(np.uint8).reshape(-1, QUAD),
        np.bincount(row, minlength=len(weights)).astype(np.int32),
        quad.astype(np.uint16),
        np.ascontiguousarray(own[row, quad]),
    )


def _empty(part: Part) -> Part:
    """A panel of the same rows without columns."""
    none = np.zeros((0, QUAD))
    return Part(
        part.first,
        part.rows,
        none.astype(np.int32),
        none.astype(np.uint8),
        np.zeros(part.rows, np.int32),
        np.zeros(0, np.uint16),
        none.astype(np.int8),
    )
