"""Dense 3x3 layers with fewer products: Winograd's minimal filtering in both directions.

The result is cut into tiles of m x m pixels. Directly a tile takes 9 m^2 products a pair of
channels; F(m x m, 3 x 3) takes (m + 2)^2, of transformed pixels and transformed weights: 4 instead
of 9 a pixel for m = 2, 2.25 for m = 4 (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, section 4.2). Products of one point are summed over all channels before they
are transformed back, so each point is a product of matrices: [outputs, inputs] by [inputs, tiles].

Points come in pairs of both signs, for half of a transform is the same for both then. Those of
m = 4 were chosen for their rounding among small binary fractions: twice that of the direct sum on
average, where 0, 1, -1, 2, -2 has five times it. F(2 x 2, 3 x 3) is more accurate than the direct
sum.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.interleave import images_inside
from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.tiling import EIGHT, Tiling
from prunedeploy.runtimes.sparse.winograd import filters
from prunedeploy.types import Array

TAPS = 3
OUTPUTS = (2, 4)  # rows and columns of a tile
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.625, -0.625, 1.5, -1.5)}  # by m; and infinity
STAGGER = 16  # floats between the channels of one point and those of the next; see pd_point
STRIP = 8  # tiles; see pd_strip
MOST_LANES = 128  # tiles of a group
MOST_PADDING = 8
SAVING = 2 / 3  # of the direct products that may be left for it to be worth it


def suits(step: Conv, outputs: int) -> bool:
    """Whether F(``outputs`` x ``outputs``, 3 x 3) can compute ``step`` and saves a third."""
    return (
        step.groups == 1
        and step.weight.shape[2:] == (TAPS, TAPS)
        and step.strides == (1, 1)
        and step.dilations == (1, 1)
        and max(step.pads) <= MOST_PADDING
        and min(step.y.shape[2:]) >= outputs
        and images_inside(step.x) in (1, *range(EIGHT, MOST_LANES + 1, EIGHT))
        and products(outputs) * tiles(step, outputs) < SAVING * TAPS**2 * _pixels(step)
    )


def products(outputs: int) -> int:
    """Of a tile, for one pair of channels."""
    return (outputs + TAPS - 1) ** 2


def down(step: Conv, outputs: int) -> int:
    """Rows of tiles of an image."""
    return -(-step.y.shape[2] // outputs)


def across(step: Conv, outputs: int) -> int:
    """Tiles of such a row."""
    return -(-step.y.shape[3] // outputs)


def tiles(step: Conv, outputs: int) -> int:
    """All tiles of the batch."""
    return step.y.shape[0] * down(step, outputs) * across(step, outputs)


def transformed(weight: Array, outputs: int) -> Array:
    """Weights [outputs, inputs, 3, 3] as G w G^T: [points, outputs, inputs] in float64."""
    by = filters(outputs, TAPS, POINTS[outputs]).astype(np.float64)
    half = np.tensordot(by, weight.astype(np.float64), (1, 2))  # [point, outputs, inputs, 3]
    found = np.tensordot(by, half, (1, 3)).swapaxes(0, 1)
    return found.reshape(-1, *weight.shape[:2])


def blocks(step: Conv, tiling: Tiling) -> Array:
    """Weights as the kernel reads them: [block, point, channel, row of the block]."""
    rows, size = len(step.weight), tiling.rows
    count = -(-rows // size)
    points = transformed(step.weight, tiling.pieces)
    padded = np.zeros((len(points), count * size, step.weight.shape[1]), np.float32)
    padded[:, :rows] = points
    split = padded.reshape(len(points), count, size, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 3, 2))


def _pixels(step: Conv) -> int:
    return step.y.shape[0] * step.y.shape[2] * step.y.shape[3]
