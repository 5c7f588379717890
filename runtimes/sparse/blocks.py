"""Streams of the kernel "mixed": blocks of rows that share columns, and what else is not zero.

The blocks are those of the weights (``passes.regroup.recover``), cut into *chunks* of as many rows
as the kernel computes at once. Rows left over become a chunk that is filled up with zeros where
they are at least half of one; otherwise they are visited one by one, as scattered non-zeros are.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunedeploy.passes.regroup.blocks import Block, nonzeros
from prunedeploy.passes.regroup.recover import recover
from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.streams import (
    FIRST,
    LAST,
    SHARED,
    VISIT,
    Ints,
    Part,
    Streams,
    panels_of,
)
from prunedeploy.runtimes.sparse.tiling import MOST_OFFSET, Geometry, Tiling
from prunedeploy.types import Array

BLOCK, NONE = 8, 16  # flags beside those of streams
MOST_ROWS = 2**16 - 1  # a record has 16 bits for a row
LEAST_ROWS = 4  # fewer rows of equal columns are not worth a chunk
KNOWN = 256  # layers whose blocks are kept at hand


@dataclass(frozen=True)
class Work:
    """What one tile of a layer takes: columns of chunks, chunks, other non-zeros, their rows."""

    columns: int
    chunks: int
    nonzeros: int
    rows: int


@dataclass(frozen=True)
class _Chunk:
    """Rows that one visit computes; ``of`` is the number of the block that they are from."""

    rows: Ints
    columns: Ints
    of: int


_known: dict[int, tuple[weakref.ref[Array], tuple[Block, ...]]] = {}


def blocks_of(step: Conv) -> tuple[Block, ...]:
    """The blocks of a layer that have rows enough; found once a weight."""
    known = _known.get(id(step.weight))
    if known is not None and known[0]() is step.weight:  # and not another with its old id
        return known[1]
    while len(_known) >= KNOWN:
        del _known[next(iter(_known))]
    found = recover(step.weight, step.groups)
    kept = tuple(block for block in found if block.rows.size >= LEAST_ROWS)
    _known[id(step.weight)] = (weakref.ref(step.weight), kept)
    return kept


def share(step: Conv) -> float:
    """Share of the non-zeros that lie in blocks; 0 where rows are too many to number."""
    if step.weight.shape[0] > MOST_ROWS:
        return 0.0
    inside = sum(block.size for block in blocks_of(step))
    return inside / max(int(np.count_nonzero(step.weight)), 1)


def work(step: Conv, rows: int) -> Work:
    """What the layer takes in chunks of ``rows``."""
    chunks = list(_chunks(step, rows))
    inside = sum(chunk.rows.size * chunk.columns.size for chunk in chunks)
    taken = sum(chunk.rows.size for chunk in chunks)
    return Work(
        sum(chunk.columns.size for chunk in chunks),
        len(chunks),
        int(np.count_nonzero(step.weight)) - inside,
        step.weight.shape[0] - taken,
    )


def _chunks(step: Conv, size: int) -> Iterator[_Chunk]:
    for number, block in enumerate(blocks_of(step)):
        for begin in range(0, block.rows.size, size):
            rows = block.rows[begin : begin + size]
            if 2 * rows.size >= size:
                yield _Chunk(rows, block.columns, number)


def mixed_streams(step: Conv, tiling: Tiling, geometry: Geometry) -> Streams:
    """The streams of ``step`` for the kernel "mixed".

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    panels = panels_of(step.x.shape[1], tiling.channels)
    layer = _Layer(step, geometry, panels)
    chunks = list(_chunks(step, tiling.rows))
    order, edges = _order(layer, chunks, tiling.groups)
    entries = _Entries(layer, chunks, order)
    parts = tuple(
        tuple(_part(entries, tiling.rows, begin, end, panel) for panel in range(len(panels)))
        for begin, end in itertools.pairwise(edges)
    )
    return Streams(panels, parts, int(np.diff(edges).max()))


class _Layer:
    """The non-zeros of a layer, and where each column lies."""

    def __init__(self, step: Conv, geometry: Geometry, panels: tuple[tuple[int, int], ...]) -> None:
        self.outputs, self.count = step.weight.shape[0], len(panels)
        taps = np.array(geometry.taps, np.int64).reshape(-1)
        channel = np.repeat(np.arange(step.x.shape[1]), taps.size)
        starts = np.array([begin for begin, _ in panels], np.int64)
        self.panel: Ints = np.searchsorted(starts, channel, side="right") - 1
        inside = (channel - starts[self.panel]) * geometry.channel
        self.offset: Ints = (inside + np.tile(taps, step.x.shape[1])) // geometry.unit
        self.row, self.column = nonzeros(step.weight, step.groups)
        self.weight = step.weight[step.weight != 0]
        used = self.offset[self.column]
        if used.size and used.max() >= MOST_OFFSET:
            raise ValueError(f"an offset of {used.max()} units does not fit into 16 bits")
        self.starts: Ints = np.searchsorted(self.row, np.arange(self.outputs + 1))

    def values(self, chunk: _Chunk) -> Array:
        """The weights [columns, rows] of a chunk, whose rows hold its columns and no others."""
        return np.stack([self.weight[self.starts[r] : self.starts[r + 1]] for r in chunk.rows], 1)


def _order(layer: _Layer, chunks: list[_Chunk], groups: int) -> tuple[Ints, list[int]]:
    """Rows in the order of the stream, whole chunks first, and edges of groups of equal work."""
    single = np.ones(layer.outputs, np.bool_)
    for chunk in chunks:
        single[chunk.rows] = False
    rest = np.flatnonzero(single)
    order = np.concatenate([*(chunk.rows for chunk in chunks), rest]).astype(np.int64)
    load = np.diff(layer.starts)[rest]
    costs = np.array([c.columns.size * c.rows.size + 8 for c in chunks] + (2 * load + 8).tolist())
    ends = np.cumsum([c.rows.size for c in chunks] + [1] * rest.size)
    total = np.cumsum(costs)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, groups) / groups)
    edges = [0, *(int(ends[cut]) for cut in cuts), layer.outputs]
    return order, [int(edge) for edge in np.maximum.accumulate(edges)]


class _Entries:
    """Chunks and single non-zeros by place in the order, with where each row begins and ends."""

    def __init__(self, layer: _Layer, chunks: list[_Chunk], order: Ints) -> None:
        self.layer, self.chunks, self.order = layer, chunks, order
        self.place = np.empty(layer.outputs, np.int64)
        self.place[order] = np.arange(layer.outputs)
        self.chunk_at = {int(self.place[c.rows[0]]): c for c in chunks}
        inside = np.zeros(layer.outputs, np.bool_)
        for chunk in chunks:
            inside[chunk.rows] = True
        self.single: Ints = np.flatnonzero(~inside[layer.row])
        self.single_panel = layer.panel[layer.column[self.single]]
        # panels that a row is visited in; an empty one is written in the first
        seen = np.zeros((layer.outputs, layer.count), np.bool_)
        seen[layer.row, layer.panel[layer.column]] = True
        seen[~seen.any(1), 0] = True
        self.seen = seen
        self.first, self.last = seen.argmax(1), layer.count - 1 - seen[:, ::-1].argmax(1)
        self.inside = inside

    def flags(self, rows: Ints, panel: int) -> Ints:
        """Of rows in one panel."""
        flags: Ints = FIRST * (self.first[rows] == panel) + LAST * (self.last[rows] == panel)
        return flags

    def record(self, rows: Ints) -> Ints:
        """Row and place, as a record holds them."""
        return rows + (self.place[rows] << 16)


def _part(entries: _Entries, size: int, begin: int, end: int, panel: int) -> Part:
    layer = entries.layer
    visits: list[Any] = []
    offsets: list[Ints] = []
    weights: list[Array] = []
    of = -1
    for place in range(begin, end):
        chunk = entries.chunk_at.get(place)
        if chunk is None:
            continue
        here = layer.panel[chunk.columns] == panel
        if not here.any():
            continue
        if chunk.of == of:  # reads what the one before it reads
            visits[-1]["flags"][0] |= SHARED
            offsets[-1] = offsets[-1][:0]
        of = chunk.of
        visits.append(_visit(entries, chunk.rows, size, int(here.sum()), panel))
        offsets.append(layer.offset[chunk.columns[here]])
        padded = np.zeros((int(here.sum()), size), np.float32)
        padded[:, : chunk.rows.size] = layer.values(chunk)[here]
        weights.append(padded.reshape(-1))
    _singles(entries, begin, end, panel, (visits, offsets, weights))
    return Part(
        begin,
        np.concatenate([*visits, np.zeros(0, VISIT)]),
        np.concatenate([*offsets, np.zeros(0, np.int64)]).astype(np.uint16),
        np.concatenate([*weights, np.zeros(0, np.float32)]).astype(np.float32),
    )


def _visit(entries: _Entries, rows: Ints, size: int, count: int, panel: int) -> Array:
    found = np.zeros(size + 1, VISIT)
    found["count"][0], found["flags"][0] = count, BLOCK
    found["flags"][1:] = FIRST | NONE
    found["row"][1:] = entries.record(rows[:1])
    found["row"][1 : rows.size + 1] = entries.record(rows)
    found["flags"][1 : rows.size + 1] = entries.flags(rows, panel)
    return found


def _singles(
    entries: _Entries,
    begin: int,
    end: int,
    panel: int,
    streams: tuple[list[Any], list[Ints], list[Array]],
) -> None:
    """The rows for themselves, those of equal length behind one another."""
    layer = entries.layer
    here = entries.single[entries.single_panel == panel]
    places = entries.place[layer.row[here]]
    here = here[(places >= begin) & (places < end)]
    count = np.bincount(layer.row[here], minlength=layer.outputs)
    rows = entries.order[begin:end]
    rows = rows[~entries.inside[rows] & entries.seen[rows, panel]]
    flags = entries.flags(rows, panel)
    sequence = np.lexsort((rows, count[rows], flags))
    rows, flags = rows[sequence], flags[sequence]
    found = np.zeros(rows.size, VISIT)
    found["row"], found["count"], found["flags"] = entries.record(rows), count[rows], flags
    turn = np.zeros(layer.outputs, np.int64)
    turn[rows] = np.arange(rows.size)
    here = here[np.lexsort((layer.offset[layer.column[here]], turn[layer.row[here]]))]
    streams[0].append(found)
    streams[1].append(layer.offset[layer.column[here]])
    streams[2].append(layer.weight[here])
