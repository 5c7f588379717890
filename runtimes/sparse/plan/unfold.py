"""Where the pixels under each weight of a window are.

A result of the size of its input, at stride 1, is *direct*: the pixel under a weight is a fixed
number of bytes from the result's, and a mask says which pixels of a tile have one inside of the
image. For all other windows ``plan.Unfold`` takes the input apart first, so that this holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array

TILE = 64  # pixels that are computed at once: bytes of a cache line, and of the widest vector
Pair = tuple[int, int]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The geometry of a layer; ``out`` is the size of the result."""

    kernel: Pair
    out: Pair
    strides: Pair
    pads: tuple[int, int, int, int]
    dilations: Pair


@dataclass(frozen=True)
class UnfoldLayout:
    """The rows of a channel of an image, taken apart.

    Args:
        phases: for every remainder of a row by the stride that is read, where its rows begin.
        rows: of all phases.
        size: bytes: rows as wide as the result, for each column of the window.
    """

    phases: tuple[tuple[int, int, int], ...]
    rows: int
    size: int


def is_direct(image: Pair, window: Window) -> bool:
    """Whether the result lies on the input's own pixels."""
    return window.strides == (1, 1) and window.out == image


def unfold_layout(window: Window) -> UnfoldLayout:
    """The layout of ``plan.Unfold``: ``phases`` are (remainder, first row, number of rows)."""
    stride = window.strides[0]
    longest: dict[int, int] = {}
    for tap in range(window.kernel[0]):
        row = tap * window.dilations[0]
        longest[row % stride] = max(longest.get(row % stride, 0), row // stride)
    phases, rows = [], 0
    for remainder in sorted(longest):
        count = longest[remainder] + window.out[0]
        phases.append((remainder, rows, count))
        rows += count
    return UnfoldLayout(tuple(phases), rows, rows * window.out[1] * window.kernel[1])


def tap_offsets(image: Pair, window: Window, unfolded: bool) -> Ints:
    """int64 [kernel height, kernel width]: bytes from a result's pixel to the one under a tap."""
    down = np.arange(window.kernel[0])[:, None] * window.dilations[0]
    across = np.arange(window.kernel[1])[None, :] * window.dilations[1]
    if not unfolded:
        offsets: Ints = (down - window.pads[0]) * image[1] + across - window.pads[1]
        return offsets
    layout = unfold_layout(window)
    first = {remainder: row for remainder, row, _ in layout.phases}
    begin = np.array([[first[int(row) % window.strides[0]]] for row in down[:, 0]])
    row = begin + down // window.strides[0]
    column = np.arange(window.kernel[1])[None, :] * layout.rows
    made: Ints = (column + row) * window.out[1]
    return made


def masks(images: int, image: Pair, window: Window) -> Array:
    """uint64 [tiles, taps]: which of a tile's pixels have a pixel under the tap.

    Of direct layers; the pixels of all images follow one another.
    """
    height, width = image
    row, column = np.divmod(np.arange(height * width), width)
    inside = []
    for tap in np.ndindex(*window.kernel):
        y = row + tap[0] * window.dilations[0] - window.pads[0]
        x = column + tap[1] * window.dilations[1] - window.pads[1]
        inside.append((y >= 0) & (y < height) & (x >= 0) & (x < width))
    bits = np.tile(np.array(inside), (1, images))
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % TILE)))
    packed = np.packbits(padded.reshape(len(bits), -1, TILE), axis=2, bitorder="little")
    return np.ascontiguousarray(packed.view("<u8")[:, :, 0].T)
