"""Packed sparse weights: the non-zeros in the order in which a kernel reads them.

A part belongs to one group of output rows and one panel of input channels. It is a list of *row
segments*: the non-zeros of one output row (or block of rows) inside the panel, each with so many
offsets and weights behind one another. Segments of equal length follow each other, so that the
processor predicts where their loops end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry

ROW_SEGMENT = np.dtype([("row", "<u4"), ("count", "<u2"), ("flags", "<u2")])
FIRST, LAST, SHARED = 1, 2, 4

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The weights of one group of rows in one panel; ``first`` is the group's first row."""

    first: int
    row_segments: Array
    offsets: Array
    weights: Array
    code: Array | None = None  # generated machine code, in bytes


@dataclass(frozen=True)
class PackedWeights:
    """All packed weights of a layer: ``parts[group][panel]``, and the panels' channels.

    ``reloads``: accumulators are spilled and reloaded inside a panel, too.
    """

    panels: tuple[tuple[int, int], ...]
    parts: tuple[tuple[Part, ...], ...]
    rows_of_group: int  # of the largest group
    reloads: bool = False

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


def within(entries: Entries, begin: int, end: int) -> Entries:
    """The entries of the rows [begin, end)."""
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


def block_edges(outputs: int, size: int, count: int) -> list[int]:
    """Edges of ``count`` groups of about equally many blocks of ``size`` rows."""
    blocks = -(-outputs // size)
    return [*(blocks * index // count * size for index in range(count)), outputs]


def groups(load: Ints, count: int) -> list[int]:
    """Edges of ``count`` groups of consecutive rows with about the same number of non-zeros."""
    total = np.cumsum(load + 1)  # a row without any still has to be written
    wanted = total[-1] * np.arange(1, count) / count
    edges = [0, *np.searchsorted(total, wanted).tolist(), len(load)]
    return [int(edge) for edge in np.maximum.accumulate(edges)]
