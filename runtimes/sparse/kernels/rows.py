"""The kernel "rows": scattered non-zeros, one output row at a time (c/rows.h)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from prunedeploy.runtimes.sparse.kernels import packing
from prunedeploy.runtimes.sparse.kernels.cost import row_cycles, tiled_cycles
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.packing import Ints, entries
from prunedeploy.runtimes.sparse.kernels.shapes import DENSE, Rows, density, panels, tiles
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule import schedule as schedules
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule

MAX_GATHERED = 1 << 24  # entries of a table for im2col, where nothing else will do
TILES = Rows("rows", 1, ("copies", "im2col", "shared_border", "interleaved"), narrowest=2)


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a sparse layer."""
    if density(step) < DENSE:
        yield from all_candidates(step, scope)


def all_candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a layer, whether or not it is sparse enough."""
    return panels(step, tiles(step, TILES, scope), scope)


def last_resorts(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules for windows that reach so far that the usual tiles have too many elements."""
    return panels(step, _small_tiles(step), scope)


def _small_tiles(step: Conv) -> Iterator[Schedule]:
    if schedules.is_flat(step):
        return
    pixel = max(schedules.inside(step) // 8, 1)
    yield Schedule("rows", 1, pixel, 1)
    if schedules.inside(step) > 1:
        return
    yield Schedule("rows", 1, 1, 1, packing="copies")
    if step.weight[0, 0].size * schedules.pixels(step) <= MAX_GATHERED:
        yield Schedule("rows", 1, 2, 1, packing="im2col")


def cycles(step: Conv, schedule: Schedule, scope: Scope) -> float:
    """The cycles of the busiest thread."""
    layout = schedules.geometry(step, schedule)
    nonzeros = int(np.count_nonzero(step.weight))
    row_segments = min(
        len(step.weight) * -(-step.x.shape[1] // schedule.channels), nonzeros + len(step.weight)
    )
    inner = row_cycles(step, schedule, layout, scope.isa.lanes)
    return tiled_cycles(step, schedule, layout, scope, nonzeros, row_segments, inner)


def pack_rows(
    step: Conv, schedule: Schedule, geometry: schedules.Geometry
) -> packing.PackedWeights:
    """The packed weights of ``step`` for the kernel "rows".

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    outputs = step.weight.shape[0]
    panels = packing.panels_of(step.x.shape[1], schedule.channels)
    nonzeros = entries(step, geometry, panels)
    if nonzeros.offset.size and nonzeros.offset.max() >= schedules.MAX_OFFSET:
        raise ValueError(f"an offset of {nonzeros.offset.max()} units does not fit into 16 bits")
    edges = packing.groups(np.bincount(nonzeros.row, minlength=outputs), schedule.groups)
    parts = tuple(
        _parts(packing.within(nonzeros, begin, end), begin, end, len(panels))
        for begin, end in itertools.pairwise(edges)
    )
    return packing.PackedWeights(panels, parts, int(np.diff(edges).max()))


def _parts(entries: packing.Entries, begin: int, end: int, panels: int) -> tuple[packing.Part, ...]:
    rows = end - begin
    count = np.zeros((rows, panels), np.int64)
    np.add.at(count, (entries.row - begin, entries.panel), 1)
    count_or_first = count.copy()
    count_or_first[count.sum(1) == 0, 0] = 1  # an empty row is written in the first panel
    first = (count_or_first > 0).argmax(1)
    last = panels - 1 - (count_or_first > 0)[:, ::-1].argmax(1)
    order = np.lexsort((entries.offset, entries.row, entries.panel))
    offset, weight = entries.offset[order], entries.weight[order]
    starts = np.zeros((panels, rows), np.int64)
    starts.reshape(-1)[1:] = np.cumsum(count.T.reshape(-1))[:-1]
    parts = []
    for panel in range(panels):
        here = np.flatnonzero(count_or_first[:, panel])
        flags = packing.FIRST * (first[here] == panel) + packing.LAST * (last[here] == panel)
        here = here[np.lexsort((here, count[here, panel], flags))]
        flags = packing.FIRST * (first[here] == panel) + packing.LAST * (last[here] == panel)
        row_segments = np.zeros(here.size, packing.ROW_SEGMENT)
        lengths = count[here, panel]
        row_segments["row"], row_segments["count"] = here + begin, lengths
        row_segments["flags"] = flags
        index = _runs(starts[panel, here], lengths)
        parts.append(
            packing.Part(
                begin,
                row_segments,
                offset[index].astype(np.uint16),
                weight[index].astype(np.float32),
            )
        )
    return tuple(parts)


def _runs(starts: Ints, lengths: Ints) -> Ints:
    """The concatenation of ranges [start, start + length)."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    index: Ints = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return index
