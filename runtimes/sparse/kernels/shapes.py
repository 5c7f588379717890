"""Tiles, panels and groups that a layer may be cut into: what the candidates of kernels share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule import schedule as schedules
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, inside

INTERLEAVED = (2, 4)  # vectors of a row of a comb
SMALL = 16  # images narrower than this may be laid out flat
DENSE = 0.4  # from this density on blocks of whole rows are worth considering


@dataclass(frozen=True)
class Rows:
    """How a kernel computes a tile: ``rows`` output rows at once, from inputs packed so.

    Args:
        kernel: its name.
        rows: output rows of a block.
        packings: of the input, beside "plain" and "none".
        narrowest: least width of a flat tile, in units of 8 pixels.
    """

    kernel: str
    rows: int
    packings: tuple[schedules.Packing, ...] = ()
    narrowest: int = 1


def density(step: Conv) -> float:
    """Share of the weights that are not zero."""
    return float(np.count_nonzero(step.weight)) / max(step.weight.size, 1)


def terms(step: Conv) -> float:
    """The mean number of non-zeros for each input channel, in the rows that have any."""
    rows = int(np.count_nonzero(step.weight.any((1, 2, 3))))
    mean = int(np.count_nonzero(step.weight)) / max(rows * step.weight.shape[1], 1)
    return float(max(mean, 1e-3))


def groups(tiles: int, threads: int, rows: int) -> int:
    """Groups of rows so that no thread waits long for another."""
    if threads == 1:
        return 1
    for count in (1, 2, 4):
        tile_rows = tiles * count
        if -(-tile_rows // threads) * threads <= 1.07 * tile_rows:
            return min(count, max(rows // 4, 1))
    return min(4, max(rows // 4, 1))


def panels(
    step: Conv, shapes: Iterable[Schedule], scope: Scope, max_terms: float | None = None
) -> Iterator[Schedule]:
    """``shapes`` with panels and groups."""
    per_channel_terms, l1 = terms(step), scope.isa.l1_panel_bytes
    for schedule in shapes:
        layout = schedules.geometry(step, schedule)
        size = 1 if layout.flat and schedule.packing == "none" else layout.channel
        # a visit counts in 16 bits too: one offset fewer than there are
        reach = (schedules.MAX_OFFSET - 1) * layout.unit // max(layout.channel, 1)
        channels = max(step.x.shape[1], 1)
        if max_terms is not None:
            channels = min(channels, max(int(max_terms / max(per_channel_terms, 1.0)), 1))
        per_channel = 4 * (
            schedule.tile_width_x8 * 8 if layout.flat and schedule.packing != "im2col" else size
        )
        for budget in (l1 // 2, l1, 3 * l1, 16 * l1):
            panel = min(max(budget // per_channel, 1), reach, channels)
            if panel < 1:
                continue
            count = groups(layout.tiles, scope.threads, step.weight.shape[0])
            yield replace(schedule, channels=panel, groups=count)
            if panel == channels:
                break


def tiles(step: Conv, kernel: Rows, scope: Scope) -> Iterator[Schedule]:
    """Tiles whose accumulators fit the registers; panels and groups are still open."""
    max_x8 = max(scope.isa.accumulators_x8 // kernel.rows, 1)
    if schedules.is_flat(step):
        yield from _flat_shapes(step, kernel, max_x8)
    else:
        yield from window_shapes(step, kernel, max_x8)
        if "interleaved" in kernel.packings and scope.isa.lanes == UNIT and step.strides == (1, 1):
            yield from _interleaved_shapes(step, kernel, max_x8)
        if schedules.row_size(step) < SMALL:
            yield from _im2col_shapes(step, kernel, max_x8)
            small = (
                "shared_border" in kernel.packings and schedules.shared_border_pitch(step) <= SMALL
            )
            if small and inside(step) == 1 and step.strides == (1, 1):
                yield from shared_border_shapes(step, kernel, max_x8)


def _flat_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    count = -(-schedules.pixels(step) // 8)
    widths = range(kernel.narrowest, max_x8 + 1)
    for tile_width_x8 in widths:
        if not schedules.is_direct(step) and tile_width_x8 * 8 % inside(step):
            continue  # strides take whole pixels
        waste = -(-count // tile_width_x8) * tile_width_x8 / count
        if waste > 1.25 and tile_width_x8 > 2:
            continue
        in_place = schedules.is_direct(step) and step.x.strides[1] % UNIT == 0
        packings: tuple[schedules.Packing, ...] = ("none", "plain") if in_place else ("plain",)
        for packing in packings:
            yield Schedule(kernel.kernel, 1, tile_width_x8, 1, packing=packing, rows=kernel.rows)


def _im2col_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    count = -(-schedules.pixels(step) // 8)
    for tile_width_x8 in range(1, max_x8 + 1):
        waste = -(-count // tile_width_x8) * tile_width_x8 / count
        if waste <= 1.25 or tile_width_x8 == 1:
            yield Schedule(kernel.kernel, 1, tile_width_x8, 1, rows=kernel.rows, packing="im2col")


def _interleaved_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    """Whole rows of at least half the vectors' pixels; with vectors of 16 alone."""
    width = step.y.shape[3]
    if inside(step) > 1 or step.weight.shape[3] == 1:
        return
    for interleaved in INTERLEAVED:
        if interleaved * UNIT // 2 < width <= interleaved * UNIT:
            for schedule in _bands(step, kernel, max_x8 // (2 * interleaved), 2 * interleaved):
                if schedule.packing == "plain":
                    yield replace(schedule, packing="interleaved")


def shared_border_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    """Whole images, or bands of them."""
    pitch, (height, width) = schedules.shared_border_pitch(step), step.y.shape[2:]
    for bands in range(1, height + 1):
        tile_rows = -(-height // bands)
        tile_width_x8 = -(-((tile_rows - 1) * pitch + width) // 8)
        if tile_width_x8 <= max_x8 and -(-height // tile_rows) == bands:
            yield Schedule(
                kernel.kernel,
                tile_rows,
                tile_width_x8,
                1,
                rows=kernel.rows,
                packing="shared_border",
            )


def window_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    """Tiles of whole rows of pixels, or of bands of them, ``max_x8`` x 8 pixels at most."""
    if inside(step) > 1:
        yield from _pixel_shapes(step, kernel, max_x8)
        return
    whole = -(-schedules.row_size(step) // 8)
    bands = -(-whole // max_x8)
    while bands <= whole:
        tile_width_x8 = -(-whole // bands)
        yield from _bands(step, kernel, max_x8 // tile_width_x8, tile_width_x8)
        if bands > 1 or tile_width_x8 * 2 <= max_x8:
            return
        bands += 1  # a row does not leave room for a second one: half rows may be better


def _pixel_shapes(step: Conv, kernel: Rows, max_x8: int) -> Iterator[Schedule]:
    """Pixels are vectors: tiles of any number of columns and rows of them."""
    pixel, width = -(-inside(step) // 8), step.y.shape[3]
    for bands in range(1, width + 1):
        columns = -(-width // bands)
        if columns * pixel <= max_x8 and -(-width // columns) == bands:
            yield from _bands(step, kernel, max_x8 // (columns * pixel), columns * pixel)


def _bands(step: Conv, kernel: Rows, max_rows: int, tile_width_x8: int) -> Iterator[Schedule]:
    height = step.y.shape[2]
    for tile_rows in range(1, max_rows + 1):
        bands = -(-height // tile_rows)
        if tile_rows > 1 and -(-height // bands) != tile_rows:
            continue  # a smaller one has as many bands
        shifted = "copies" in kernel.packings and step.weight.shape[3] > 1 and inside(step) == 1
        packings: tuple[schedules.Packing, ...] = ("plain", "copies") if shifted else ("plain",)
        for packing in packings:
            yield Schedule(
                kernel.kernel, tile_rows, tile_width_x8, 1, packing=packing, rows=kernel.rows
            )
