"""The schedule of a convolution: tiles of pixels, panels of input channels, groups of rows.

A *flat* tile is a run of pixels of the plane, for windows of 1x1. A *window* tile is
whole rows of one image; its input is copied with its halo, strides taken apart into phases, so that
the tap (kh, kw) of output pixel (i, j) lies at a constant distance from (i, j). See c/conv.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunedeploy.runtimes.sparse.plan.batch_innermost import innermost_images
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT

EIGHT = 8  # pixels: widths of tiles count in eights, half a vector of AVX-512
MAX_OFFSET = 2**16  # offsets are 16 bits


Packing = Literal["plain", "none", "copies", "im2col", "shared_border", "interleaved"]


@dataclass(frozen=True)
class Schedule:
    """The free choices of one layer; the tuner measures which are the best (``tune``).

    Args:
        kernel: a name of ``kernels.table.KERNELS``.
        tile_rows: output rows of a tile; 1 for flat tiles. In Winograd 2-D m of F(m x m, r x r).
        tile_width_x8: pixels of a tile's row, in units of 8. In Winograd 2-D the m x m tiles that
            are computed at once, in units of 8.
        channels: input channels in a panel.
        groups: groups of output channels that threads may share a tile by.
        packing: how a tile's input is copied together before it is read.

            - "plain": one copy, pixels in their order.
            - "none": read where it lies; flat tiles alone.
            - "copies": one for every column of a window, so that all loads are aligned.
            - "im2col": one for every tap, tiles of windows flat as well: small images, whose rows
              do not fill a vector, then lie one behind the other.
            - "shared_border": the rows of a window tile are one run, with the border of zeros
              between them, which is the right one of a row and the left one of the next; for small
              images as well, of which one copy then serves all taps.
            - "interleaved": a row of a window tile is n vectors, each of every n-th pixel: the next
              pixel is the next vector, and all loads are aligned.
        rows: output channels of a block.
        fill: kernels that look for blocks take those whose cells are worth this share of a
            scattered non-zero.
    """

    kernel: str
    tile_rows: int
    tile_width_x8: int
    channels: int
    groups: int = 1
    packing: Packing = "plain"
    rows: int = 1
    fill: float = 1.0

    @property
    def elements(self) -> int:
        """Accumulators of one output channel in a tile, one a pixel."""
        rows = 1 if self.packing == "shared_border" else self.tile_rows
        return rows * self.tile_width_x8 * EIGHT

    @property
    def interleaved(self) -> int:
        """Vectors of a row of interleaved pixels; 0 for other packings."""
        return self.tile_width_x8 * EIGHT // UNIT if self.packing == "interleaved" else 0

    def __str__(self) -> str:
        """The schedule as reports name it: kernel, rows of a block, tile, panel."""
        rows = f" {self.rows}" if self.rows > 1 else ""
        how = {"plain": "packed", "none": "in place"}.get(self.packing, self.packing)
        tile = f"{self.tile_rows}x{self.tile_width_x8 * EIGHT}"
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
    offset: int


@dataclass(frozen=True)
class Geometry:
    """All that follows from a layer's shape and its ``Schedule``.

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


def geometry(step: Conv, schedule: Schedule) -> Geometry:
    """Lay out a tile of ``step``."""
    if is_flat(step):
        return _flat(step, schedule)
    match schedule.packing:
        case "im2col":
            return _im2col(step, schedule)
        case "shared_border":
            return _shared_border(step, schedule)
        case "interleaved":
            return _interleaved(step, schedule)
        case _:
            return _window(step, schedule)


def _flat(step: Conv, schedule: Schedule) -> Geometry:
    size = schedule.tile_width_x8 * EIGHT
    channel = -(-size // UNIT) * UNIT if schedule.packing != "none" else step.x.strides[1]
    tiles = -(-pixels(step) // size)
    return Geometry(True, tiles, size, size, 0, channel, UNIT, (), ((0,),))


def _taps(step: Conv, row: int, column: int) -> tuple[tuple[int, ...], ...]:
    """Offsets of a window's taps, whose rows and columns are so many elements apart."""
    rows, columns = (range(count) for count in step.weight.shape[2:])
    return tuple(tuple(row * y + column * x for x in columns) for y in rows)


def _im2col(step: Conv, schedule: Schedule) -> Geometry:
    size = schedule.tile_width_x8 * EIGHT
    tap_size = -(-size // UNIT) * UNIT  # of one tap
    height, width = step.weight.shape[2:]
    taps = _taps(step, width * tap_size, tap_size)
    tiles, channel = -(-pixels(step) // size), height * width * tap_size
    return Geometry(True, tiles, size, size, 0, channel, UNIT, (), taps)


def shared_border_pitch(step: Conv) -> int:
    """From one row of an image to the next, where the border between two is both rows'."""
    _, left, _, right = step.pads
    return max(step.x.shape[3] + max(left, right), step.y.shape[3])


def _shared_border(step: Conv, schedule: Schedule) -> Geometry:
    height = step.weight.shape[2]
    down, across = step.dilations
    top, left = step.pads[:2]
    pitch = shared_border_pitch(step)
    # one row more than the taps need: its border is the right one of the last row
    rows = schedule.tile_rows + (height - 1) * down + 1
    taps = _taps(step, down * pitch, across)
    channel = -(-rows * pitch // UNIT) * UNIT
    tiles = step.y.shape[0] * -(-step.y.shape[2] // schedule.tile_rows)
    phases = (Phase(-top, 1, rows, -left, 1, pitch, 0),)
    columns = step.y.shape[3]
    return Geometry(False, tiles, schedule.tile_rows, columns, pitch, channel, 1, phases, taps)


def _interleaved(step: Conv, schedule: Schedule) -> Geometry:
    height, width = step.weight.shape[2:]
    down, across = step.dilations
    top, left = step.pads[:2]
    pitch = (schedule.interleaved + (width - 1) * across) * UNIT
    rows = schedule.tile_rows + (height - 1) * down
    taps = _taps(step, down * pitch, across * UNIT)
    tiles = step.y.shape[0] * -(-step.y.shape[2] // schedule.tile_rows)
    phases = (Phase(-top, 1, rows, -left, schedule.interleaved, pitch, 0),)
    columns = step.y.shape[3]
    return Geometry(
        False, tiles, schedule.tile_rows, columns, pitch, rows * pitch, UNIT, phases, taps
    )


def _window(step: Conv, schedule: Schedule) -> Geometry:
    kernel_height, kernel_width = step.weight.shape[2:]
    row_step, column_step = step.strides
    top, left = step.pads[:2]
    block = inside(step)
    images, height, width = step.y.shape[0] // block, step.y.shape[2], row_size(step)
    # rows and columns of the window, as phase and distance in steps
    down = [divmod(k * step.dilations[0], row_step) for k in range(kernel_height)]
    across = [divmod(k * step.dilations[1], column_step) for k in range(kernel_width)]
    if schedule.packing == "copies":  # each column of the window is a phase of its own
        starts = [k * step.dilations[1] for k in range(kernel_width)]
        shifts = [(k, 0) for k in range(kernel_width)]
    else:
        starts = sorted({phase for _, phase in across})
        shifts = [(starts.index(phase), steps) for steps, phase in across]
    reach = max(steps for _, steps in shifts)
    columns = min(width, schedule.tile_width_x8 * EIGHT)
    pitch = -(-(columns + reach * block) // UNIT) * UNIT  # rows start on a vector's boundary
    used_rows = sorted({phase for _, phase in down})
    phases, size, where = [], 0, {}
    for row_phase in used_rows:
        rows = schedule.tile_rows + max(steps for steps, phase in down if phase == row_phase)
        for number, start in enumerate(starts):
            where[row_phase, number] = size
            column = (start - left) * block
            phases.append(Phase(row_phase - top, row_step, rows, column, column_step, pitch, size))
            size += rows * pitch
    taps = tuple(
        tuple(where[phase, number] + steps * pitch + shift * block for number, shift in shifts)
        for steps, phase in down
    )
    tiles = images * -(-height // schedule.tile_rows) * -(-width // columns)
    unit = UNIT if block % UNIT == 0 else 1
    return Geometry(
        False, tiles, schedule.tile_rows, columns, pitch, size, unit, tuple(phases), taps
    )
