"""Streams of the kernel "mixed": blocks of rows that share columns, and what else is not zero.

The blocks are those that lose nothing (``passes.regroup.lossless``), cut into *chunks* of as many
rows as the kernel computes at once. Rows left over become a chunk that is filled up with zeros
where they are at least half of one. All other non-zeros are visited row by row: those of rows that
are in no chunk, and those that a chunk's rows have outside of its columns, on top of its sums.
"""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Mask, nonzeros
from prunedeploy.passes.blocks.remainder import Price, lossless
from prunedeploy.runtimes.sparse.kernels.packing import (
    FIRST,
    LAST,
    SHARED,
    VISIT,
    Ints,
    Part,
    Streams,
    panels_of,
)
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import MOST_OFFSET, Geometry, Tiling

BLOCK, NONE = 8, 16  # flags beside those of streams
MOST_ROWS = 2**16 - 1  # a record has 16 bits for a row
KNOWN = 256  # layers whose blocks are kept at hand


@dataclass(frozen=True)
class Work:
    """What one tile takes: columns of chunks, chunks, other non-zeros, visits of rows for them."""

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


@dataclass(frozen=True)
class Found:
    """The blocks of a layer, and how many of its non-zeros are in them."""

    blocks: tuple[Block, ...]
    inside: int
    works: dict[int, Work] = field(default_factory=dict, compare=False)  # by rows of a chunk

    @property
    def cells(self) -> int:
        """Of all blocks, zeros included."""
        return sum(block.size for block in self.blocks)


_known: dict[tuple[bytes, float], Found] = {}
_digests: dict[int, tuple[weakref.ref[Array], bytes]] = {}


def blocks_of(step: Conv, fill: float = 1.0) -> Found:
    """The blocks of a layer that pay if a cell costs ``fill`` of a scattered non-zero.

    Found once for the same weights, also where a model is built again; none where rows are too many
    to number.
    """
    if step.weight.shape[0] > MOST_ROWS:
        return Found((), 0)
    key = (_digest(step), fill)
    if key not in _known:
        while len(_known) >= KNOWN:
            del _known[next(iter(_known))]
        blocks = lossless(step.weight, Price(fill), step.groups)
        _known[key] = Found(blocks, _inside(step, blocks))
    return _known[key]


def _digest(step: Conv) -> bytes:
    """Of a layer's weights, their shape and their groups; computed once an array."""
    known = _digests.get(id(step.weight))
    if known is not None and known[0]() is step.weight:  # and not another with its old id
        return known[1]
    while len(_digests) >= KNOWN:
        del _digests[next(iter(_digests))]
    found = hashlib.sha256(repr((step.weight.shape, step.groups)).encode())
    found.update(np.ascontiguousarray(step.weight).data)
    _digests[id(step.weight)] = (weakref.ref(step.weight), found.digest())
    return found.digest()


def _inside(step: Conv, blocks: tuple[Block, ...]) -> int:
    """Non-zeros of the layer that lie in ``blocks``."""
    row, column = nonzeros(step.weight, step.groups)
    if not blocks:
        return 0
    return int(_members(blocks, step.weight.shape[0], row, column).sum())


def _members(blocks: Iterable[Block], outputs: int, row: Ints, column: Ints) -> Mask:
    """Which non-zeros, given in order of their rows, lie in ``blocks``, whose rows are disjoint."""
    starts = np.searchsorted(row, np.arange(outputs + 1))
    inside = np.zeros(row.size, np.bool_)
    wide = np.zeros(int(column.max(initial=-1)) + 1, np.bool_)
    for block in blocks:
        columns = block.columns[block.columns < wide.size]
        wide[columns] = True
        for index in block.rows:
            here = slice(starts[index], starts[index + 1])
            inside[here] = wide[column[here]]
        wide[columns] = False
    return inside


def share(step: Conv, fill: float = 1.0) -> float:
    """Share of the non-zeros that lie in blocks."""
    return blocks_of(step, fill).inside / max(int(np.count_nonzero(step.weight)), 1)


def work(step: Conv, rows: int, fill: float = 1.0) -> Work:
    """What the layer takes in chunks of ``rows``; counted once a weight."""
    works = blocks_of(step, fill).works
    if rows not in works:
        works[rows] = _work(step, list(_chunks(step, rows, fill)))
    return works[rows]


def _work(step: Conv, chunks: list[_Chunk]) -> Work:
    row, column = nonzeros(step.weight, step.groups)
    outputs = step.weight.shape[0]
    outside = row[~_members((Block(c.rows, c.columns) for c in chunks), outputs, row, column)]
    visited = np.ones(outputs, np.bool_)  # by themselves
    for chunk in chunks:
        visited[chunk.rows] = False
    visited[outside] = True
    return Work(
        sum(chunk.columns.size for chunk in chunks), len(chunks), outside.size, int(visited.sum())
    )


def _chunks(step: Conv, size: int, fill: float) -> Iterator[_Chunk]:
    for number, block in enumerate(blocks_of(step, fill).blocks):
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
    chunks = list(_chunks(step, tiling.rows, tiling.fill))
    order, edges = _order(layer, chunks, tiling.groups)
    entries = _Entries(layer, chunks, order)
    parts = tuple(
        tuple(_part(entries, tiling.rows, begin, end, panel) for panel in range(len(panels)))
        for begin, end in itertools.pairwise(edges)
    )
    return Streams(panels, parts, int(np.diff(edges).max()), entries.resumes)


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

    def values(self, chunk: _Chunk, size: int) -> Array:
        """The weights [columns, size] of a chunk, zeros included; rows it lacks are zero."""
        found = np.zeros((chunk.columns.size, size), np.float32)
        for index, row in enumerate(chunk.rows):
            here = slice(self.starts[row], self.starts[row + 1])
            place = np.searchsorted(chunk.columns, self.column[here])
            place = np.minimum(place, chunk.columns.size - 1)
            inside = chunk.columns[place] == self.column[here]
            found[place[inside], index] = self.weight[here][inside]
        return found


def _order(layer: _Layer, chunks: list[_Chunk], groups: int) -> tuple[Ints, list[int]]:
    """Rows in the order of the stream, whole chunks first, and edges of groups of equal work."""
    single = np.ones(layer.outputs, np.bool_)
    for chunk in chunks:
        single[chunk.rows] = False
    rest = np.flatnonzero(single)
    order = np.concatenate([*(chunk.rows for chunk in chunks), rest]).astype(np.int64)
    load = np.diff(layer.starts)
    whole = [int(c.columns.size * c.rows.size + load[c.rows].sum()) // 2 + 8 for c in chunks]
    costs = np.array(whole + (2 * load[rest] + 8).tolist())
    ends = np.cumsum([c.rows.size for c in chunks] + [1] * rest.size)
    total = np.cumsum(costs)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, groups) / groups)
    edges = [0, *(int(ends[cut]) for cut in cuts), layer.outputs]
    return order, [int(edge) for edge in np.maximum.accumulate(edges)]


class _Entries:
    """Chunks and single non-zeros by place in the order, with where each row begins and ends.

    A row is visited in turns: turn ``2 * panel`` with its chunk, the one after that by itself.
    """

    def __init__(self, layer: _Layer, chunks: list[_Chunk], order: Ints) -> None:
        self.layer, self.chunks, self.order = layer, chunks, order
        self.place = np.empty(layer.outputs, np.int64)
        self.place[order] = np.arange(layer.outputs)
        self.chunk_at = {int(self.place[c.rows[0]]): c for c in chunks}
        blocks = (Block(c.rows, c.columns) for c in chunks)
        inside = _members(blocks, layer.outputs, layer.row, layer.column)
        self.single: Ints = np.flatnonzero(~inside)
        self.single_panel = layer.panel[layer.column[self.single]]
        self.seen = self._seen(chunks)
        turns = self.seen.shape[1]
        self.first, self.last = self.seen.argmax(1), turns - 1 - self.seen[:, ::-1].argmax(1)

    def _seen(self, chunks: list[_Chunk]) -> Mask:
        """Turns [rows, 2 * panels] in which a row is visited; for an empty one the first panel."""
        layer = self.layer
        seen = np.zeros((layer.outputs, layer.count, 2), np.bool_)
        seen[layer.row[self.single], self.single_panel, 1] = True
        for chunk in chunks:
            for panel in np.unique(layer.panel[chunk.columns]):
                seen[chunk.rows, panel, 0] = True
        seen[~seen.any((1, 2)), 0, 1] = True
        return seen.reshape(layer.outputs, -1)

    @property
    def resumes(self) -> bool:
        """Whether the sums of some row are put away and fetched again."""
        return bool((self.first < self.last).any())

    def flags(self, rows: Ints, turn: int) -> Ints:
        """Of rows in one turn."""
        flags: Ints = FIRST * (self.first[rows] == turn) + LAST * (self.last[rows] == turn)
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
        weights.append(layer.values(chunk, size)[here].reshape(-1))
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
    found["flags"][1 : rows.size + 1] = entries.flags(rows, 2 * panel)
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
    rows = rows[entries.seen[rows, 2 * panel + 1]]
    flags = entries.flags(rows, 2 * panel + 1)
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
