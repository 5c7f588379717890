"""From weights to streams: the non-zeros in the order in which a kernel reads them.

A stream belongs to one group of output rows and one panel of input channels. It is a list of
*visits*, one a row (or block of rows), each with so many offsets and weights behind one another.
Visits of equal length follow each other, so that the processor foresees where their loops end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import MOST_OFFSET, Geometry, Tiling

VISIT = np.dtype([("row", "<u4"), ("count", "<u2"), ("flags", "<u2")])
FIRST, LAST, SHARED = 1, 2, 4

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The stream of one group of rows in one panel; ``first`` is the group's first row."""

    first: int
    visits: Array
    offsets: Array
    weights: Array
    code: Array | None = None  # bytes; of the kernel "unrolled"


@dataclass(frozen=True)
class Streams:
    """All streams of a layer: ``parts[group][panel]``, and the panels' channels.

    ``resumes``: rows are put away and gone on with inside a panel, too.
    """

    panels: tuple[tuple[int, int], ...]
    parts: tuple[tuple[Part, ...], ...]
    rows_of_group: int  # of the largest group
    resumes: bool = False

    @property
    def nonzeros(self) -> int:
        """Weights stored, zeros of blocks included."""
        return sum(part.weights.size for group in self.parts for part in group)


@dataclass(frozen=True)
class Entries:
    """Weights to store, one an element: output row, input channel, offset in the panel."""

    row: Ints
    panel: Ints
    offset: Ints
    weight: Array


def panels_of(channels: int, size: int) -> tuple[tuple[int, int], ...]:
    """Channels cut evenly into panels of at most ``size``."""
    count = max(1, -(-channels // size))
    edges = [channels * index // count for index in range(count + 1)]
    return tuple(itertools.pairwise(edges))


def streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The streams of ``step`` for the kernel "rows".

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    outputs = step.weight.shape[0]
    panels = panels_of(step.x.shape[1], tiling.channels)
    found = entries(step, geometry, panels)
    if found.offset.size and found.offset.max() >= MOST_OFFSET:
        raise ValueError(f"an offset of {found.offset.max()} units does not fit into 16 bits")
    edges = groups(np.bincount(found.row, minlength=outputs), tiling.groups)
    parts = tuple(
        _parts(within(found, begin, end), begin, end, len(panels))
        for begin, end in itertools.pairwise(edges)
    )
    return Streams(panels, parts, int(np.diff(edges).max()))


def within(entries: Entries, begin: int, end: int) -> Entries:
    """Those of the rows [begin, end)."""
    here = (entries.row >= begin) & (entries.row < end)
    return Entries(
        entries.row[here], entries.panel[here], entries.offset[here], entries.weight[here]
    )


def entries(step: Conv, geometry: Geometry, panels: tuple[tuple[int, int], ...]) -> Entries:
    """All non-zeros, in the order of their rows."""
    row, local, kernel_row, kernel_column = (x.astype(np.int64) for x in np.nonzero(step.weight))
    outputs, width = step.weight.shape[:2]
    channel = local + row // (outputs // step.groups) * width
    starts = np.array([begin for begin, _ in panels], np.int64)
    panel = np.searchsorted(starts, channel, side="right") - 1
    taps = np.array(geometry.taps, np.int64)
    offset = (channel - starts[panel]) * geometry.channel + taps[kernel_row, kernel_column]
    return Entries(
        row, panel.astype(np.int64), offset // geometry.unit, step.weight[step.weight != 0]
    )


def groups(load: Ints, count: int) -> list[int]:
    """Edges of ``count`` groups of consecutive rows with about the same number of non-zeros."""
    total = np.cumsum(load + 1)  # a row without any still has to be written
    wanted = total[-1] * np.arange(1, count) / count
    edges = [0, *np.searchsorted(total, wanted).tolist(), len(load)]
    return [int(edge) for edge in np.maximum.accumulate(edges)]


def _parts(entries: Entries, begin: int, end: int, panels: int) -> tuple[Part, ...]:
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
    found = []
    for panel in range(panels):
        here = np.flatnonzero(count_or_first[:, panel])
        flags = FIRST * (first[here] == panel) + LAST * (last[here] == panel)
        here = here[np.lexsort((here, count[here, panel], flags))]
        flags = FIRST * (first[here] == panel) + LAST * (last[here] == panel)
        visits = np.zeros(here.size, VISIT)
        visits["row"], visits["count"], visits["flags"] = here + begin, count[here, panel], flags
        index = _runs(starts[panel, here], count[here, panel])
        found.append(
            Part(begin, visits, offset[index].astype(np.uint16), weight[index].astype(np.float32))
        )
    return tuple(found)


def _runs(starts: Ints, lengths: Ints) -> Ints:
    """The concatenation of ranges [start, start + length)."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    index: Ints = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return index


def dense_streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The streams of ``step`` for the kernel "block": blocks of ``tiling.rows`` rows.

    A block holds every column of its panel that any of its rows has a non-zero in.
    """
    outputs, size = step.weight.shape[0], tiling.rows
    panels = panels_of(step.x.shape[1], tiling.channels)
    blocks = -(-outputs // size)
    edges = [blocks * index // tiling.groups * size for index in range(tiling.groups)] + [outputs]
    parts = tuple(
        _block_parts(step, geometry, panels, begin, end, size)
        for begin, end in itertools.pairwise(edges)
    )
    most = max(-(-(end - begin) // size) for begin, end in itertools.pairwise(edges))
    return Streams(panels, parts, most * size)


def _block_parts(
    step: Conv,
    geometry: Geometry,
    panels: tuple[tuple[int, int], ...],
    begin: int,
    end: int,
    size: int,
) -> tuple[Part, ...]:
    group = step.weight.shape[0] // step.groups
    found: list[Part] = []
    for number, (low, high) in enumerate(panels):
        visits: list[tuple[int, int, int]] = []
        offsets: list[Ints] = []
        weights: list[Array] = []
        for row in range(begin, end, size):
            rows = np.arange(row, min(row + size, end))
            block, offset = _block(step, geometry, rows, low, high, group)
            flags = FIRST * (number == 0) + LAST * (number == len(panels) - 1)
            if offsets and np.array_equal(offset, offsets[-1]):
                visits[-1] = (*visits[-1][:2], visits[-1][2] | SHARED)
                offsets[-1] = offset[:0]
            visits.append((row, offset.size, flags))
            offsets.append(offset)
            padded = np.zeros((offset.size, size), np.float32)
            padded[:, : rows.size] = block.T
            weights.append(padded)
        empty = np.zeros(0, np.float32)
        found.append(
            Part(
                begin,
                np.array(visits, VISIT),
                np.concatenate([*offsets, empty]).astype(np.uint16),
                np.concatenate([x.reshape(-1) for x in weights] or [empty]),
            )
        )
    return tuple(found)


def _block(
    step: Conv, geometry: Geometry, rows: Ints, low: int, high: int, group: int
) -> tuple[Array, Ints]:
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
    if offset[used].size and offset[used].max() >= MOST_OFFSET:
        raise ValueError(f"an offset of {offset[used].max()} units does not fit into 16 bits")
    return dense[:, used], offset[used]
