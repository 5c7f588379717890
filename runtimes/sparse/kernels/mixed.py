"""The kernel "mixed": blocks of rows that share columns, and what else is not zero.

The blocks are those that lose nothing (``passes.regroup.lossless``), cut into *chunks* of as many
rows as the kernel computes at once. Rows left over become a chunk that is filled up with zeros
where they are at least half of one. All other non-zeros are visited row by row: those of rows that
are in no chunk, and those that a chunk's rows have outside of its columns, added to its
accumulators.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Mask, nonzeros
from prunedeploy.runtimes.sparse.kernels import packing, rows
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache, Chunk, Work, members
from prunedeploy.runtimes.sparse.kernels.cost import block_cycles, row_cycles, tiled_cycles
from prunedeploy.runtimes.sparse.kernels.jit import schedule as jit
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.packing import FIRST, LAST, Ints
from prunedeploy.runtimes.sparse.kernels.shapes import DENSE, Rows, density, panels, terms, tiles
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import MAX_OFFSET, Geometry, Schedule, geometry

BLOCK, NONE = 8, 16  # flags beside those of row segments
ROWS = (4, 6, 8, 12, 14)  # output rows of a chunk
MAX_TERMS = 512  # of a row's sum within a panel: longer sums err more
MIN_SHARE = 0.2  # of the non-zeros in blocks, from which on these are measured
CHEAPEST = 0.5  # that a cell of a block is, in scattered non-zeros
CHEAPEST_JIT = 0.85  # where these are instructions
FULL = 0.95  # above this density the kernel for dense layers has all that blocks could give


def candidates(step: Conv, scope: Scope) -> Iterator[Schedule]:
    """Schedules of a layer of which enough lies in blocks that pay."""
    fill = cell_cost(step, scope)
    if fill < 1 and scope.blocks.share(step, fill) >= MIN_SHARE:
        for rows in ROWS:
            for schedule in panels(step, _tiles(step, rows, scope), scope, MAX_TERMS):
                yield replace(schedule, fill=fill)


def _tiles(step: Conv, rows: int, scope: Scope) -> Iterator[Schedule]:
    return tiles(step, Rows("mixed", rows, ("im2col", "shared_border")), scope)


def cell_cost(step: Conv, scope: Scope) -> float:
    """The cost of a cell of a block in scattered non-zeros, by the model; at most 1: no blocks pay.

    That is also the answer where there would be too few blocks if cells were as cheap as they ever
    are, which a look at some rows of a scattered layer tells, and where a layer is dense anyway.
    """
    count = int(np.count_nonzero(step.weight))
    cheapest = CHEAPEST_JIT if jit.suits(step, scope.isa) else CHEAPEST
    if _is_full(step) or scope.blocks.share(step, cheapest) < MIN_SHARE:
        return 1.0
    shape = (step.x.shape, step.y.shape, step.weight.shape, step.strides, step.pads)
    # programs finish rows where an activation is bounds; their panels depend on rows that are empty
    programs = (step.activation.bounds is None, step.residual is None, round(terms(step), 3))
    key = (*shape, step.dilations, step.x.strides[1], count, scope.isa.name, *programs)
    costs = scope.blocks.cell_costs
    if key not in costs:
        costs[key] = _cell_cost(step, replace(scope, threads=1), count, cheapest)
    return costs[key]


def _is_full(step: Conv) -> bool:
    """Whether a layer is dense, but for some rows of nothing."""
    if density(step) < DENSE:
        return False
    count = (step.weight != 0).reshape(len(step.weight), -1).sum(1)
    return bool(count.sum() > FULL * np.count_nonzero(count) * step.weight[0].size)


def _cell_cost(step: Conv, scope: Scope, count: int, lowest: float) -> float:
    """All non-zeros in blocks, over all scattered."""
    single = [
        *(rows.cycles(step, schedule, scope) for schedule in rows.all_candidates(step, scope)),
        *(jit.cycles(step, schedule, scope) for schedule in jit.candidates(step, scope)),
    ]
    blocked = []
    for size in ROWS:
        work = Work(-(-count // size), -(-len(step.weight) // size), 0, 0)
        schedules = panels(step, _tiles(step, size, scope), scope, MAX_TERMS)
        blocked += [cycles(step, schedule, scope, work) for schedule in schedules]
    ratio = min(blocked, default=1.0) / max(min(single, default=1.0), 1e-9)
    return round(min(max(ratio, lowest), 1.0), 2)


def cycles(step: Conv, schedule: Schedule, scope: Scope, work: Work | None = None) -> float:
    """The cycles of the busiest thread, of ``work`` if it is given, else of the layer's blocks."""
    layout, lanes = geometry(step, schedule), scope.isa.lanes
    work = work or scope.blocks.work(step, schedule.rows, schedule.fill)
    inner = block_cycles(step, schedule, layout, lanes)
    # rows by themselves count as part of a block's column
    columns = work.columns + work.nonzeros * row_cycles(step, schedule, layout, lanes) / inner
    row_segments = (work.chunks + work.rows / schedule.rows) * -(
        -step.x.shape[1] // schedule.channels
    )
    return tiled_cycles(step, schedule, layout, scope, columns, row_segments, inner)


def pack_mixed(
    step: Conv, schedule: Schedule, geometry: Geometry, cache: BlockCache
) -> packing.PackedWeights:
    """The packed weights of ``step`` for the kernel "mixed".

    Raises:
        ValueError: a panel reaches further than an offset can say.
    """
    panels = packing.panels_of(step.x.shape[1], schedule.channels)
    layer = _Layer(step, geometry, panels)
    chunks = list(cache.chunks(step, schedule.rows, schedule.fill))
    order, edges = _order(layer, chunks, schedule.groups)
    entries = _Entries(layer, chunks, order)
    parts = tuple(
        tuple(_part(entries, schedule.rows, begin, end, panel) for panel in range(len(panels)))
        for begin, end in itertools.pairwise(edges)
    )
    return packing.PackedWeights(panels, parts, int(np.diff(edges).max()), entries.reloads)


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
        if used.size and used.max() >= MAX_OFFSET:
            raise ValueError(f"an offset of {used.max()} units does not fit into 16 bits")
        self.starts: Ints = np.searchsorted(self.row, np.arange(self.outputs + 1))

    def values(self, chunk: Chunk, size: int) -> Array:
        """The weights [columns, size] of a chunk, zeros included; rows it lacks are zero."""
        weights = np.zeros((chunk.columns.size, size), np.float32)
        for index, row in enumerate(chunk.rows):
            here = slice(self.starts[row], self.starts[row + 1])
            at = np.searchsorted(chunk.columns, self.column[here])
            at = np.minimum(at, chunk.columns.size - 1)
            inside = chunk.columns[at] == self.column[here]
            weights[at[inside], index] = self.weight[here][inside]
        return weights


def _order(layer: _Layer, chunks: list[Chunk], groups: int) -> tuple[Ints, list[int]]:
    """Rows in their order of storage, whole chunks first, and edges of groups of equal work."""
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
    """Chunks and single non-zeros by position in the order, with where each row begins and ends.

    A row is visited in turns: turn ``2 * panel`` with its chunk, the one after that by itself.
    """

    def __init__(self, layer: _Layer, chunks: list[Chunk], order: Ints) -> None:
        self.layer, self.chunks, self.order = layer, chunks, order
        self.position = np.empty(layer.outputs, np.int64)
        self.position[order] = np.arange(layer.outputs)
        self.chunk_at = {int(self.position[c.rows[0]]): c for c in chunks}
        blocks = (Block(c.rows, c.columns) for c in chunks)
        inside = members(blocks, layer.outputs, layer.row, layer.column)
        self.single: Ints = np.flatnonzero(~inside)
        self.single_panel = layer.panel[layer.column[self.single]]
        self.seen = self._seen(chunks)
        turns = self.seen.shape[1]
        self.first, self.last = self.seen.argmax(1), turns - 1 - self.seen[:, ::-1].argmax(1)

    def _seen(self, chunks: list[Chunk]) -> Mask:
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
    def reloads(self) -> bool:
        """Whether the accumulators of some row are spilled and reloaded."""
        return bool((self.first < self.last).any())

    def flags(self, rows: Ints, turn: int) -> Ints:
        """The flags of rows in one turn."""
        flags: Ints = FIRST * (self.first[rows] == turn) + LAST * (self.last[rows] == turn)
        return flags

    def record(self, rows: Ints) -> Ints:
        """Row and position, as a record holds them."""
        return rows + (self.position[rows] << 16)


def _part(entries: _Entries, size: int, begin: int, end: int, panel: int) -> packing.Part:
    layer = entries.layer
    row_segments: list[Any] = []
    offsets: list[Ints] = []
    weights: list[Array] = []
    of = -1
    for position in range(begin, end):
        chunk = entries.chunk_at.get(position)
        if chunk is None:
            continue
        here = layer.panel[chunk.columns] == panel
        if not here.any():
            continue
        if chunk.of == of:  # reads what the one before it reads
            row_segments[-1]["flags"][0] |= packing.SHARED
            offsets[-1] = offsets[-1][:0]
        of = chunk.of
        row_segments.append(_block_segments(entries, chunk.rows, size, int(here.sum()), panel))
        offsets.append(layer.offset[chunk.columns[here]])
        weights.append(layer.values(chunk, size)[here].reshape(-1))
    _singles(entries, begin, end, panel, (row_segments, offsets, weights))
    return packing.Part(
        begin,
        np.concatenate([*row_segments, np.zeros(0, packing.ROW_SEGMENT)]),
        np.concatenate([*offsets, np.zeros(0, np.int64)]).astype(np.uint16),
        np.concatenate([*weights, np.zeros(0, np.float32)]).astype(np.float32),
    )


def _block_segments(entries: _Entries, rows: Ints, size: int, count: int, panel: int) -> Array:
    segments = np.zeros(size + 1, packing.ROW_SEGMENT)
    segments["count"][0], segments["flags"][0] = count, BLOCK
    segments["flags"][1:] = FIRST | NONE
    segments["row"][1:] = entries.record(rows[:1])
    segments["row"][1 : rows.size + 1] = entries.record(rows)
    segments["flags"][1 : rows.size + 1] = entries.flags(rows, 2 * panel)
    return segments


def _singles(
    entries: _Entries,
    begin: int,
    end: int,
    panel: int,
    parts: tuple[list[Any], list[Ints], list[Array]],
) -> None:
    """The rows for themselves, those of equal length behind one another."""
    layer = entries.layer
    here = entries.single[entries.single_panel == panel]
    positions = entries.position[layer.row[here]]
    here = here[(positions >= begin) & (positions < end)]
    count = np.bincount(layer.row[here], minlength=layer.outputs)
    rows = entries.order[begin:end]
    rows = rows[entries.seen[rows, 2 * panel + 1]]
    flags = entries.flags(rows, 2 * panel + 1)
    sequence = np.lexsort((rows, count[rows], flags))
    rows, flags = rows[sequence], flags[sequence]
    segments = np.zeros(rows.size, packing.ROW_SEGMENT)
    segments["row"], segments["count"], segments["flags"] = entries.record(rows), count[rows], flags
    turn = np.zeros(layer.outputs, np.int64)
    turn[rows] = np.arange(rows.size)
    here = here[np.lexsort((layer.offset[layer.column[here]], turn[layer.row[here]]))]
    parts[0].append(segments)
    parts[1].append(layer.offset[layer.column[here]])
    parts[2].append(layer.weight[here])
