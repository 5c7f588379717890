"""Which way to cut a layer, from its shape and a simple model of the machine.

``cost`` ranks them; ``tune`` measures the best few where the machine is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels import jit as unrolled
from prunedeploy.runtimes.sparse.kernels import mixed as blocks
from prunedeploy.runtimes.sparse.kernels import winograd_1d as winograd
from prunedeploy.runtimes.sparse.kernels import winograd_2d as winograd2d
from prunedeploy.runtimes.sparse.plan.steps import UNIT, Conv
from prunedeploy.runtimes.sparse.schedule.cost import cycles
from prunedeploy.runtimes.sparse.schedule.schedule import (
    MOST_OFFSET,
    Kernel,
    Packing,
    Tiling,
    geometry,
    inside,
    is_direct,
    is_flat,
    pixels,
    raster_pitch,
    row_size,
)

RASTERS = ("rows", "mixed")  # kernels of images in one run
COMBS = (2, 4)  # vectors of a row of a comb
SMALL = 16  # images narrower than this may be laid out flat
BLOCKS = 0.2  # share of the non-zeros in blocks from which on these are measured
CHUNKS = (4, 6, 8, 12, 14)  # rows that are computed at once
MOST_GATHERED = 1 << 24  # entries of a table for im2col, where nothing else will do
MINIMAL = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # output channels of a block of minimal filtering
SQUARES = (4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16)  # and of one that filters both ways
# Terms of a row's sum within a panel: longer sums err more. Rows of scattered non-zeros have fewer.
LONGEST = {"winograd": 216, "mixed": 512, "block": 512, "unrolled": 512}
UNROLLED = 0.6  # up to this density a layer's non-zeros may be instructions
PROGRAM = 15  # bytes of a program for a non-zero
APART = 64  # pixels a thread from which on it may compute its own
UNROLLED_TILE = 56  # eights of pixels that a program runs over one after the other
UNROLLED_TERMS = (LONGEST["unrolled"], 80)  # of a row: as above; so that a program is in the cache
UNROLLED_PANEL = 640 * 1024  # bytes of a packed panel: programs read it from the second-level cache
MOST_TURNED = 1 << 20  # floats of transformed input that a thread may hold
CHEAPEST = 0.5  # that a cell of a block is, in scattered non-zeros
CHEAPEST_UNROLLED = 0.85  # where these are instructions
FULL = 0.95  # above this density the kernel for dense layers has all that blocks could give
DENSE = 0.4  # from this density on blocks are worth considering
SQUARE = 0.2  # and minimal filtering both ways, of a quarter of the dense products


def tiling(step: Conv, isa: str, threads: int = 2) -> Tiling:
    """The best by the model."""
    return ranked(step, isa, threads)[0]


def ranked(step: Conv, isa: str, threads: int = 2) -> list[Tiling]:
    """Every candidate, the best by the model first.

    Raises:
        UserError: there is none, for the window reaches further than an offset can say.
    """
    found = list(candidates(step, isa, threads))
    if not found:
        raise UserError(
            f"the sparse runtime cannot compute Conv ({step.name}): "
            "its window reaches too far: use --runtime ort"
        )
    return sorted(found, key=lambda way: cycles(step, way, isa, threads))


def density(step: Conv) -> float:
    """Share of the weights that are not zero."""
    return float(np.count_nonzero(step.weight)) / max(step.weight.size, 1)


def candidates(step: Conv, isa: str, threads: int) -> Iterator[Tiling]:
    """All ways that are worth a thought; for very large windows, all that there are."""
    usual = list(dict.fromkeys(_panels(step, _shapes(step, isa), isa, threads)))
    yield from _unrolled(step, isa, threads)
    yield from usual or _panels(step, _last_resorts(step), isa, threads)
    if density(step) >= SQUARE:
        yield from _squares(step, isa, threads)


def _unrolled(step: Conv, isa: str, threads: int) -> Iterator[Tiling]:
    """Programs of as many rows as there are registers, or a little fewer, all equally many."""
    if not _may_unroll(step, isa):
        return
    outputs = len(step.weight)
    rows = -(-outputs // max(-(-outputs // unrolled.MOST_ROWS), 1))
    found = dict.fromkeys(_unrolled_shapes(step, rows, threads))
    ways = {way: geometry(step, way) for way in found}
    if _apart(step, threads):
        even = {way: layout for way, layout in ways.items() if layout.tiles % threads == 0}
        ways = even or ways
    for way, layout in ways.items():
        groups = _groups(layout.tiles, threads, outputs)
        most = min(step.x.shape[1], unrolled.REACHED // max(layout.channel, 1))
        if way.packing != "none":
            most = min(most, UNROLLED_PANEL // (4 * max(layout.channel, 1)))
        panels = (min(int(terms / _terms(step)), most) for terms in UNROLLED_TERMS)
        for channels in dict.fromkeys(max(each, 1) for each in panels if most):
            yield replace(way, channels=channels, groups=groups)


def _may_unroll(step: Conv, isa: str) -> bool:
    return ISAS[isa].jit and density(step) <= UNROLLED


def _apart(step: Conv, threads: int) -> bool:
    """Whether threads share pixels out, and not rows: programs are less than the input is."""
    read, programs = 4 * step.x.shape[1] * pixels(step), PROGRAM * np.count_nonzero(step.weight)
    return bool(pixels(step) >= APART * threads and read > programs)


def _unrolled_shapes(step: Conv, rows: int, threads: int) -> Iterator[Tiling]:
    """Tiles of whole planes, or of parts of them that are as large as each other."""
    if is_flat(step):
        count, unit = -(-pixels(step) // 8), max(inside(step) // 8, 1)
        for most in (UNROLLED_TILE, UNROLLED_TILE // 2, UNROLLED_TILE // 4):
            shared = threads if _apart(step, threads) else 1
            tiles = -(-count // (most * shared)) * shared
            eighths = -(-count // tiles)
            eighths = -(-eighths // unit) * unit
            eighths += eighths % 2
            if is_direct(step) and step.x.strides[1] % UNIT == 0:
                yield Tiling("unrolled", 1, eighths, 1, packing="none", rows=rows)
            yield Tiling("unrolled", 1, eighths, 1, rows=rows)
        return
    found = list(_window_shapes(step, "unrolled", rows, UNROLLED_TILE))
    if inside(step) == 1 and step.strides == (1, 1):
        for way in _raster_shapes(step, "unrolled", rows, UNROLLED_TILE):
            found.append(replace(way, eighths=way.eighths + way.eighths % 2))
    yield from sorted(found, key=lambda way: -way.elements)


def _squares(step: Conv, isa: str, threads: int) -> Iterator[Tiling]:
    """Minimal filtering both ways: whole vectors of tiles, all channels at once."""
    lanes, (rows, channels) = ISAS[isa].lanes, step.weight.shape[:2]
    known = [m for m in winograd2d.OUTPUTS if lanes > 1 and winograd2d.suits(step, m)]
    for outputs, size in ((m, size) for m in known for size in _lanes(step, isa, m)):
        tiles = -(-winograd2d.tiles(step, outputs) // size)
        for block in (block for block in SQUARES if block * size <= ISAS[isa].accumulators * lanes):
            groups = _groups(tiles, threads, -(-rows // block) * 4)
            yield Tiling("winograd2d", outputs, size // 8, channels, groups, rows=block)


def _lanes(step: Conv, isa: str, outputs: int) -> Iterator[int]:
    """Tiles that are computed at once: whole vectors, until all are or the scratch is full."""
    unit = math.lcm(max(ISAS[isa].lanes, 8), inside(step))
    most = min(-(-winograd2d.tiles(step, outputs) // unit) * unit, winograd2d.MOST_LANES)
    turned = winograd2d.size(step, outputs) ** 2 * winograd2d.channels(step)  # floats a tile
    return (n for n in range(unit, most + 1, unit) if n == unit or turned * n <= MOST_TURNED)


def _panels(step: Conv, shapes: Iterable[Tiling], isa: str, threads: int) -> Iterator[Tiling]:
    """``shapes`` with panels and groups."""
    terms, l1 = _terms(step), ISAS[isa].l1_panel_bytes
    for way in shapes:
        layout = geometry(step, way)
        size = 1 if layout.flat and way.packing == "none" else layout.channel
        # a visit counts in 16 bits too: one offset fewer than there are
        reach = (MOST_OFFSET - 1) * layout.unit // max(layout.channel, 1)
        channels = max(step.x.shape[1], 1)
        if way.kernel in LONGEST:
            channels = min(channels, max(int(LONGEST[way.kernel] / max(terms, 1.0)), 1))
        per_channel = 4 * (way.eighths * 8 if layout.flat and way.packing != "im2col" else size)
        for budget in (l1 // 2, l1, 3 * l1, 16 * l1):
            panel = min(max(budget // per_channel, 1), reach, channels)
            if panel < 1:
                continue
            groups = _groups(layout.tiles, threads, step.weight.shape[0])
            yield replace(way, channels=panel, groups=groups)
            if panel == channels:
                break


def longest(step: Conv, way: Tiling) -> float:
    """Terms of a row's sum within a panel, on average."""
    return way.channels * _terms(step)


def _terms(step: Conv) -> float:
    """Of an input channel in the sum of a row that has any, on average."""
    rows = int(np.count_nonzero(step.weight.any((1, 2, 3))))
    terms = int(np.count_nonzero(step.weight)) / max(rows * step.weight.shape[1], 1)
    return float(max(terms, 1e-3))


def _groups(tiles: int, threads: int, rows: int) -> int:
    """Groups of rows so that no thread waits long for another."""
    if threads == 1:
        return 1
    for count in (1, 2, 4):
        pieces = tiles * count
        if -(-pieces // threads) * threads <= 1.07 * pieces:
            return min(count, max(rows // 4, 1))
    return min(4, max(rows // 4, 1))


def _shapes(step: Conv, isa: str) -> Iterator[Tiling]:
    """Kernels and tiles, panels and groups still open."""
    sums = ISAS[isa].accumulators_x8
    kernels: list[tuple[Kernel, int]] = [("rows", 1)]
    if density(step) >= DENSE:
        kernels = [("block", rows) for rows in (4, 6, 8, 12, 14)]
    yield from _mixed_shapes(step, isa)
    if density(step) >= DENSE and not is_flat(step):
        yield from _winograd_shapes(step, sums)
    for kernel, rows in kernels:
        yield from _tiles(step, kernel, rows, isa)


def _tiles(step: Conv, kernel: Kernel, rows: int, isa: str) -> Iterator[Tiling]:
    most = max(ISAS[isa].accumulators_x8 // rows, 1)
    if is_flat(step):
        yield from _flat_shapes(step, kernel, rows, most)
    else:
        yield from _window_shapes(step, kernel, rows, most)
        if kernel == "rows" and ISAS[isa].lanes == UNIT and step.strides == (1, 1):
            yield from _comb_shapes(step, most)
        if row_size(step) < SMALL:
            yield from _im2col_shapes(step, kernel, rows, most)
            if kernel in RASTERS and inside(step) == 1 and step.strides == (1, 1):
                yield from _raster_shapes(step, kernel, rows, most)


def _mixed_shapes(step: Conv, isa: str) -> Iterator[Tiling]:
    """Those of blocks, where enough of the layer lies in such as pay."""
    price = fill(step, isa)
    if price < 1 and blocks.share(step, price) >= BLOCKS:
        for rows in CHUNKS:
            for way in _tiles(step, "mixed", rows, isa):
                yield replace(way, fill=price)


def fill(step: Conv, isa: str) -> float:
    """What a cell of a block costs in scattered non-zeros, by the model; at most 1: no blocks pay.

    That is also the answer where there would be too few blocks if cells were as cheap as they ever
    are, which a look at some rows of a scattered layer tells, and where a layer is dense anyway.
    """
    count = int(np.count_nonzero(step.weight))
    least = CHEAPEST_UNROLLED if _may_unroll(step, isa) else CHEAPEST
    if _is_full(step) or blocks.share(step, least) < BLOCKS:
        return 1.0
    shape = (step.x.shape, step.y.shape, step.weight.shape, step.strides, step.pads)
    # programs finish rows where an activation is bounds; their panels depend on rows that are empty
    programs = (step.activation.bounds is None, step.residual is None, round(_terms(step), 3))
    key = (*shape, step.dilations, step.x.strides[1], count, isa, *programs)
    if key not in _fills:
        _fills[key] = _fill(step, isa, count, least)
    return _fills[key]


_fills: dict[tuple[object, ...], float] = {}


def _is_full(step: Conv) -> bool:
    """Whether a layer is dense, but for some rows of nothing."""
    if density(step) < DENSE:
        return False
    count = (step.weight != 0).reshape(len(step.weight), -1).sum(1)
    return bool(count.sum() > FULL * np.count_nonzero(count) * step.weight[0].size)


def _fill(step: Conv, isa: str, count: int, lowest: float) -> float:
    """All non-zeros in blocks, over all scattered."""
    rows = len(step.weight)
    scattered = [*_panels(step, _tiles(step, "rows", 1, isa), isa, 1), *_unrolled(step, isa, 1)]
    single = [cycles(step, way, isa, 1) for way in scattered]
    blocked = []
    for size in CHUNKS:
        work = blocks.Work(-(-count // size), -(-rows // size), 0, 0)
        ways = _panels(step, _tiles(step, "mixed", size, isa), isa, 1)
        blocked += [cycles(step, way, isa, 1, work) for way in ways]
    least = min(blocked, default=1.0) / max(min(single, default=1.0), 1e-9)
    return round(min(max(least, lowest), 1.0), 2)


def _last_resorts(step: Conv) -> Iterator[Tiling]:
    """Windows that reach so far that a channel of the usual tiles has too many elements."""
    if is_flat(step):
        return
    pixel = max(inside(step) // 8, 1)
    yield Tiling("rows", 1, pixel, 1)
    if inside(step) > 1:
        return
    yield Tiling("rows", 1, 1, 1, packing="copies")
    if step.weight[0, 0].size * pixels(step) <= MOST_GATHERED:
        yield Tiling("rows", 1, 2, 1, packing="im2col")


def _flat_shapes(step: Conv, kernel: Kernel, rows: int, most: int) -> Iterator[Tiling]:
    count = -(-pixels(step) // 8)
    widths = range(2, most + 1) if kernel == "rows" else range(1, most + 1)
    for eighths in widths:
        if not is_direct(step) and eighths * 8 % inside(step):
            continue  # strides take whole pixels
        waste = -(-count // eighths) * eighths / count
        if waste > 1.25 and eighths > 2:
            continue
        in_place = is_direct(step) and step.x.strides[1] % UNIT == 0
        packings: tuple[Packing, ...] = ("none", "plain") if in_place else ("plain",)
        for packing in packings:
            yield Tiling(kernel, 1, eighths, 1, packing=packing, rows=rows)


def _winograd_shapes(step: Conv, sums: int) -> Iterator[Tiling]:
    """Bands of rows of pixels; the sums are those of one transformed row."""
    pixel, whole = -(-inside(step) // 8), -(-row_size(step) // 8)
    for outputs in winograd.OUTPUTS:
        if not winograd.suits(step, outputs):
            continue
        for rows in MINIMAL:
            most = sums // (rows + 1) // pixel * pixel
            widths = {-(-whole // bands // pixel) * pixel for bands in range(1, whole + 1)}
            for eighths in sorted(width for width in widths if width >= 2 or width == whole):
                if eighths <= most:
                    yield Tiling("winograd", outputs, eighths, 1, rows=rows)


def _im2col_shapes(step: Conv, kernel: Kernel, rows: int, most: int) -> Iterator[Tiling]:
    count = -(-pixels(step) // 8)
    for eighths in range(1, most + 1):
        waste = -(-count // eighths) * eighths / count
        if waste <= 1.25 or eighths == 1:
            yield Tiling(kernel, 1, eighths, 1, rows=rows, packing="im2col")


def _comb_shapes(step: Conv, most: int) -> Iterator[Tiling]:
    """Whole rows of at least half the vectors' pixels; with vectors of 16 alone."""
    width = step.y.shape[3]
    if inside(step) > 1 or step.weight.shape[3] == 1:
        return
    for comb in COMBS:
        if comb * UNIT // 2 < width <= comb * UNIT:
            for way in _pieces(step, "rows", 1, most // (2 * comb), 2 * comb):
                if way.packing == "plain":
                    yield replace(way, packing="comb")


def _raster_shapes(step: Conv, kernel: Kernel, rows: int, most: int) -> Iterator[Tiling]:
    """Whole images, or bands of them."""
    pitch, (height, width) = raster_pitch(step), step.y.shape[2:]
    if pitch > SMALL and kernel != "unrolled":
        return
    for bands in range(1, height + 1):
        pieces = -(-height // bands)
        eighths = -(-((pieces - 1) * pitch + width) // 8)
        if eighths <= most and -(-height // pieces) == bands:
            yield Tiling(kernel, pieces, eighths, 1, rows=rows, packing="raster")


def _window_shapes(step: Conv, kernel: Kernel, rows: int, most: int) -> Iterator[Tiling]:
    if inside(step) > 1:
        yield from _pixel_shapes(step, kernel, rows, most)
        return
    whole = -(-row_size(step) // 8)
    bands = -(-whole // most)
    while bands <= whole:
        eighths = -(-whole // bands)
        yield from _pieces(step, kernel, rows, most // eighths, eighths)
        if bands > 1 or eighths * 2 <= most:
            return
        bands += 1  # a row does not leave room for a second one: half rows may be better


def _pixel_shapes(step: Conv, kernel: Kernel, rows: int, most: int) -> Iterator[Tiling]:
    """Pixels are vectors: tiles of any number of columns and rows of them."""
    pixel, width = -(-inside(step) // 8), step.y.shape[3]
    for bands in range(1, width + 1):
        columns = -(-width // bands)
        if columns * pixel <= most and -(-width // columns) == bands:
            yield from _pieces(step, kernel, rows, most // (columns * pixel), columns * pixel)


def _pieces(step: Conv, kernel: Kernel, rows: int, most: int, eighths: int) -> Iterator[Tiling]:
    height = step.y.shape[2]
    for pieces in range(1, most + 1):
        bands = -(-height // pieces)
        if pieces > 1 and -(-height // bands) != pieces:
            continue  # a smaller one has as many bands
        shifted = kernel == "rows" and step.weight.shape[3] > 1 and inside(step) == 1
        packings: tuple[Packing, ...] = ("plain", "copies") if shifted else ("plain",)
        for packing in packings:
            yield Tiling(kernel, pieces, eighths, 1, packing=packing, rows=rows)
