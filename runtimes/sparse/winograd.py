"""Two output rows at once with fewer products: Winograd's minimal filtering along the rows.

A phase of a window's rows with r taps gives two output rows from r + 1 input rows. Directly that
takes 2 r products of rows; F(2, r) takes r + 1, of transformed input rows and transformed taps
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1;
transforms by the Toom-Cook construction). The input is transformed once for all output channels,
and the products of all channels and columns are summed before they are transformed back.

Rounding grows by a small factor (the transforms' numbers are at most 2 and 1.5), far below the
tolerance; dense layers only, for scattered taps would fill up.
"""

from __future__ import annotations

import itertools

import numpy as np

from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.streams import FIRST, LAST, VISIT, Part, Streams, panels_of
from prunedeploy.runtimes.sparse.tiling import MOST_OFFSET, Geometry, Tiling
from prunedeploy.types import Array

MOST_TAPS = 4  # of a phase
POINTS = (0.0, 1.0, -1.0, 2.0)  # and infinity; those of pd_winograd_rows in c/winograd.h
INFINITY = len(POINTS)
END = 4  # flag of the last segment of a block in a panel
KIND = 8  # flags from this bit on say which point a segment belongs to


def suits(step: Conv) -> bool:
    """Whether the rows of ``step``'s window are worth it and known how."""
    taps = phases(step)
    products = sum(len(found) + 1 for found in taps)
    return (
        step.groups == 1
        and step.dilations[0] == 1
        and step.y.shape[2] > 1
        and max(map(len, taps)) <= MOST_TAPS
        and products <= 0.8 * 2 * step.weight.shape[2]
    )


def phases(step: Conv) -> list[list[int]]:
    """Rows of the window by phase."""
    height, stride = step.weight.shape[2], step.strides[0]
    return [list(range(phase, height, stride)) for phase in range(min(stride, height))]


def points(taps: int) -> tuple[int, ...]:
    """Which of ``POINTS`` F(2, taps) evaluates at, infinity last; two taps need 0, 1, infinity."""
    return (*range(taps), INFINITY)


def filters(taps: int) -> Array:
    """G of F(2, taps): [taps + 1, taps]."""
    finite = [POINTS[index] for index in points(taps)[:-1]]
    rows = []
    for index, point in enumerate(finite):
        others = [point - other for k, other in enumerate(finite) if k != index]
        rows.append([point**power / np.prod(others) for power in range(taps)])
    last = [0.0] * taps
    last[-1] = 1.0
    return np.array([*rows, last])


def inputs(taps: int) -> Array:
    """B^T of F(2, taps): [taps + 1, taps + 1]."""
    finite = [POINTS[index] for index in points(taps)[:-1]]
    size = taps + 1
    rows = np.zeros((size, size))
    for index in range(taps):
        others = [other for k, other in enumerate(finite) if k != index]
        coefficients = np.poly(others)[::-1] if others else np.ones(1)
        rows[index, : len(coefficients)] = coefficients
    rows[taps] = np.poly(finite)[::-1]
    return rows


def winograd_streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The streams of ``step`` for the kernel "winograd": blocks of ``tiling.rows`` output channels.

    A block's part of a panel is one segment for each transformed row, with the same columns.

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    outputs, size = step.weight.shape[0], tiling.rows
    panels = panels_of(step.x.shape[1], tiling.channels)
    blocks = -(-outputs // size)
    edges = [blocks * index // tiling.groups * size for index in range(tiling.groups)] + [outputs]
    segments = _segments(step)
    parts = tuple(
        tuple(
            _part(
                geometry,
                segments,
                (number == 0, number == len(panels) - 1),
                span,
                group,
                size,
            )
            for number, span in enumerate(panels)
        )
        for group in _groups(edges, size)
    )
    most = max(high - low for low, high in itertools.pairwise(edges))
    return Streams(panels, parts, -(-most // size) * size)


def _groups(edges: list[int], size: int) -> list[list[range]]:
    """For each group its blocks' rows."""
    return [
        [range(row, min(row + size, high)) for row in range(low, high, size)]
        for low, high in itertools.pairwise(edges)
    ]


def _segments(step: Conv) -> list[tuple[int, int, Array]]:
    """For each transformed row: its phase's first tap, its number there with its point, weights."""
    found: list[tuple[int, int, Array]] = []
    for taps in phases(step):
        transform = filters(len(taps))
        for index, point in enumerate(points(len(taps))):
            weight = np.tensordot(transform[index], step.weight[:, :, taps], axes=(0, 2))
            found.append((taps[0], index | point << KIND, weight.astype(np.float32)))
    return found


def _part(
    geometry: Geometry,
    segments: list[tuple[int, int, Array]],
    edge: tuple[bool, bool],
    span: tuple[int, int],
    blocks: list[range],
    rows: int,
) -> Part:
    low, high = span
    visits, weights = [], []
    channel = np.arange(high - low)[:, None] * geometry.channel
    offsets = []
    for first, number, _ in segments:
        place = np.array(geometry.taps[first]) + (number & (1 << KIND) - 1) * geometry.pitch
        offsets.append(((channel + place) // geometry.unit).reshape(-1))
    if max(int(x.max(initial=0)) for x in offsets) >= MOST_OFFSET:
        raise ValueError("an offset does not fit into 16 bits")
    for block in blocks:
        for index, (_, number, weight) in enumerate(segments):
            flags = FIRST * edge[0] | LAST * edge[1] | END * (index == len(segments) - 1)
            visits.append((block.start, offsets[index].size, flags | number >> KIND << KIND))
            padded = np.zeros((offsets[index].size, rows), np.float32)
            padded[:, : len(block)] = (
                weight[block.start : block.stop, low:high].reshape(len(block), -1).T
            )
            weights.append(padded.reshape(-1))
    empty = np.zeros(0, np.float32)
    return Part(
        blocks[0].start if blocks else 0,
        np.array(visits, VISIT),
        np.concatenate(offsets).astype(np.uint16),  # the same for every block
        np.concatenate(weights or [empty]),
    )
