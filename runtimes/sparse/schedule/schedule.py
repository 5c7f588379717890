"""How a convolution is cut: into tiles of pixels, panels of input channels, groups of rows.

A *flat* tile is a run of pixels of the plane, for windows of 1x1. A *window* tile is
whole rows of one image; its input is copied with its halo, strides taken apart into phases, so that
the tap (kh, kw) of output pixel (i, j) lies at a constant distance from (i, j). See c/conv.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunedeploy.runtimes.sparse.plan.batch_innermost import innermost_images
from prunedeploy.runtimes.sparse.plan.steps import UNIT, Conv

EIGHT = 8  # pixels: widths of tiles count in eights, half a vector of AVX-512
MOST_OFFSET = 2**16  # offsets are 16 bits


Kernel = Literal["rows", "unrolled", "block", "mixed", "winograd", "winograd2d"]
Packing = Literal["plain", "none", "copies", "im2col", "raster", "comb"]


@dataclass(frozen=True)
class Tiling:
    """The free choices of one layer; what is best is measured (``tune``).

    Args:
        kernel: "rows" computes one output row at a time, "block" ``rows`` of them, "unrolled" at
            most ``rows`` with an instruction a non-zero; "mixed" has rows and blocks of rows from
            anywhere in the layer; "winograd" filters along rows of pixels, "winograd2d" both ways.
        pieces: rows of pixels in a tile; 1 for flat tiles.
        eighths: pixels of a piece, in eights; in "winograd2d" tiles of ``pieces`` x ``pieces``
            pixels that are computed at once.
        channels: input channels in a panel.
        groups: groups of output rows that threads may share a tile by.
        packing: how a tile's input is copied together before it is read.

            - "plain": one copy, pixels in their order.
            - "none": read where it lies; flat tiles alone.
            - "copies": one for every column of a window, so that all loads are aligned.
            - "im2col": one for every tap, tiles of windows flat as well: small images, whose rows
              do not fill a vector, then lie one behind the other.
            - "raster": the rows of a window tile are one run, with the border of zeros between
              them; for small images as well, of which one copy then serves all taps.
            - "comb": a row of a window tile is ``comb`` vectors, each of every ``comb``-th pixel:
              the next pixel is the next vector, and all loads are aligned.
        rows: output rows of a block.
        fill: "mixed" has blocks where a cell of them costs this share of a scattered non-zero.
    """

    kernel: Kernel
    pieces: int
    eighths: int
    channels: int
    groups: int = 1
    packing: Packing = "plain"
    rows: int = 1
    fill: float = 1.0

    @property
    def elements(self) -> int:
        """Of one output row's sums in a tile."""
        pieces = self.pieces**2 if self.kernel == "winograd2d" else self.pieces
        return (1 if self.packing == "raster" else pieces) * self.eighths * EIGHT

    @property
    def comb(self) -> int:
        """Vectors of a row that is a comb; 0 for other rows."""
        return self.eighths * EIGHT // UNIT if self.packing == "comb" else 0

    def __str__(self) -> str:
        """As reports name it: kernel, rows of a block, tile, panel."""
        rows = f" {self.rows}" if self.rows > 1 else ""
        if self.kernel == "winograd2d":
            tiles = f"{self.pieces}x{self.pieces}, {self.eighths * EIGHT} at once"
            return f"{self.kernel}{rows} {tiles}, {self.groups} groups"
        how = {"plain": "packed", "none": "in place"}.get(self.packing, self.packing)
        tile = f"{self.pieces}x{self.eighths * EIGHT}"
        return f"{self.kernel}{rows} {tile} {how}, {self.channels} channels, {self.groups} groups"


@dataclass(frozen=True)
class Phase:
    """One phase of a channel's halo in a packed tile; see pd_phase in c/conv.h."""

    row: int
    row_step: int
    rows: int
    column: int
    column_step: int
    width: int
    place: int


@dataclass(frozen=True)
class Geometry:
    """What follows from a layer's shape and its ``Tiling``.

    A tile is ``tile`` pixels where flat, else ``tile`` rows of ``columns`` pixels.
    ``taps[kh][kw]`` is the place of a tap in a packed channel, in elements; ``channel`` the size
    of one; ``pitch`` the distance of a piece's rows; ``unit`` what offsets count in.
    """

    flat: bool
    tiles: int
    tile: int
    columns: int
    pitch: int
    channel: int
    unit: int
    phases: tuple[Phase, ...]
    taps: tuple[tuple[int, ...], ...]


def is_flat(step: Conv) -> bool:
    """Whether every output pixel reads one pixel of the input, and none the border."""
    return step.weight.shape[2:] == (1, 1) and not any(step.pads)


def is_direct(step: Conv) -> bool:
    """Whether that is the pixel of the same place: tiles can be read where they lie."""
    return is_flat(step) and step.strides == (1, 1)


def inside(step: Conv) -> int:
    """Images that lie side by side: elements of a pixel."""
    return innermost_images(step.x)


def row_size(step: Conv) -> int:
    """Elements of a row of the result."""
    return step.y.shape[3] * inside(step)


def pixels(step: Conv) -> int:
    """Pixels of a plane of the result, over the whole batch."""
    images, _, height, width = step.y.shape
    return images * height * width


def geometry(step: Conv, tiling: Tiling) -> Geometry:
    """Lay out a tile of ``step``."""
    if tiling.kernel == "winograd2d":
        return _squares(step, tiling)
    if is_flat(step):
        return _flat(step, tiling)
    match tiling.packing:
        case "im2col":
            return _im2col(step, tiling)
        case "raster":
            return _raster(step, tiling)
        case "comb":
            return _comb(step, tiling)
        case _:
            return _window(step, tiling)


def _squares(step: Conv, tiling: Tiling) -> Geometry:
    """Groups of tiles from anywhere in the batch; nothing is read where it lies."""
    size, (images, _, height, width) = tiling.eighths * EIGHT, step.y.shape
    squares = images * -(-height // tiling.pieces) * -(-width // tiling.pieces)
    return Geometry(False, -(-squares // size), tiling.pieces, size, 0, 0, 1, (), ((0,),))


def _flat(step: Conv, tiling: Tiling) -> Geometry:
    size = tiling.eighths * EIGHT
    channel = -(-size // UNIT) * UNIT if tiling.packing != "none" else step.x.strides[1]
    tiles = -(-pixels(step) // size)
    return Geometry(True, tiles, size, size, 0, channel, UNIT, (), ((0,),))


def _im2col(step: Conv, tiling: Tiling) -> Geometry:
    size = tiling.eighths * EIGHT
    place = -(-size // UNIT) * UNIT  # of one tap
    height, width = step.weight.shape[2:]
    taps = tuple(
        tuple((row * width + column) * place for column in range(width)) for row in range(height)
    )
    tiles, channel = -(-pixels(step) // size), height * width * place
    return Geometry(True, tiles, size, size, 0, channel, UNIT, (), taps)


def raster_pitch(step: Conv) -> int:
    """From one row of an image to the next, where the border between two is both rows'."""
    _, left, _, right = step.pads
    return max(step.x.shape[3] + max(left, right), step.y.shape[3])


def _raster(step: Conv, tiling: Tiling) -> Geometry:
    height, width = step.weight.shape[2:]
    down, across = step.dilations
    top, left = step.pads[:2]
    pitch = raster_pitch(step)
    # one row more than the taps need: its border is the right one of the last row
    rows = tiling.pieces + (height - 1) * down + 1
    taps = tuple(
        tuple(row * down * pitch + column * across for column in range(width))
        for row in range(height)
    )
    channel = -(-rows * pitch // UNIT) * UNIT
    tiles = step.y.shape[0] * -(-step.y.shape[2] // tiling.pieces)
    phases = (Phase(-top, 1, rows, -left, 1, pitch, 0),)
    columns = step.y.shape[3]
    return Geometry(False, tiles, tiling.pieces, columns, pitch, channel, 1, phases, taps)


def _comb(step: Conv, tiling: Tiling) -> Geometry:
    height, width = step.weight.shape[2:]
    down, across = step.dilations
    top, left = step.pads[:2]
    pitch = (tiling.comb + (width - 1) * across) * UNIT
    rows = tiling.pieces + (height - 1) * down
    taps = tuple(
        tuple(row * down * pitch + column * across * UNIT for column in range(width))
        for row in range(height)
    )
    tiles = step.y.shape[0] * -(-step.y.shape[2] // tiling.pieces)
    phases = (Phase(-top, 1, rows, -left, tiling.comb, pitch, 0),)
    columns = step.y.shape[3]
    return Geometry(False, tiles, tiling.pieces, columns, pitch, rows * pitch, UNIT, phases, taps)


def _window(step: Conv, tiling: Tiling) -> Geometry:
    kernel_height, kernel_width = step.weight.shape[2:]
    row_step, column_step = step.strides
    top, left = step.pads[:2]
    block = inside(step)
    images, height, width = step.y.shape[0] // block, step.y.shape[2], row_size(step)
    # rows and columns of the window, as phase and distance in steps
    down = [divmod(k * step.dilations[0], row_step) for k in range(kernel_height)]
    across = [divmod(k * step.dilations[1], column_step) for k in range(kernel_width)]
    if tiling.packing == "copies":  # each column of the window is a phase of its own
        starts = [k * step.dilations[1] for k in range(kernel_width)]
        places = [(k, 0) for k in range(kernel_width)]
    else:
        starts = sorted({phase for _, phase in across})
        places = [(starts.index(phase), steps) for steps, phase in across]
    reach = max(steps for _, steps in places)
    columns = min(width, tiling.eighths * EIGHT)
    pitch = -(-(columns + reach * block) // UNIT) * UNIT  # rows start on a vector's boundary
    used_rows = sorted({phase for _, phase in down})
    phases, place, where = [], 0, {}
    for row_phase in used_rows:
        rows = tiling.pieces + max(steps for steps, phase in down if phase == row_phase)
        for number, start in enumerate(starts):
            where[row_phase, number] = place
            column = (start - left) * block
            phases.append(Phase(row_phase - top, row_step, rows, column, column_step, pitch, place))
            place += rows * pitch
    taps = tuple(
        tuple(where[phase, number] + steps * pitch + shift * block for number, shift in places)
        for steps, phase in down
    )
    tiles = images * -(-height // tiling.pieces) * -(-width // columns)
    unit = UNIT if block % UNIT == 0 else 1
    return Geometry(False, tiles, tiling.pieces, columns, pitch, place, unit, tuple(phases), taps)
