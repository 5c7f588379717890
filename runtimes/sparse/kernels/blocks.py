"""Blocks in a layer's weights: rows that share columns, found once for the same weights."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Mask, nonzeros
from prunedeploy.passes.blocks.remainder import Price, lossless
from prunedeploy.runtimes.sparse.kernels.packing import Ints
from prunedeploy.runtimes.sparse.plan.steps import Conv

MAX_ROWS = 2**16 - 1  # a record has 16 bits for a row
KNOWN = 256  # layers whose blocks are kept at hand


@dataclass(frozen=True)
class Work:
    """The work of a tile: columns of chunks, chunks, other non-zeros, row segments for them."""

    columns: int
    chunks: int
    nonzeros: int
    rows: int


@dataclass(frozen=True)
class Chunk:
    """Rows that are computed together; ``of`` is the number of the block that they are from."""

    rows: Ints
    columns: Ints
    of: int


@dataclass(frozen=True)
class DetectedBlocks:
    """The blocks of a layer, and how many of its non-zeros are in them."""

    blocks: tuple[Block, ...]
    inside: int
    works: dict[int, Work] = field(default_factory=dict, compare=False)  # by rows of a chunk

    @property
    def cells(self) -> int:
        """The size of all blocks, zeros included."""
        return sum(block.size for block in self.blocks)


class BlockCache:
    """The blocks of layers, remembered for as long as this object lives.

    A build makes one and hands it to all that looks for blocks: candidates, cost model, packing.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, float], DetectedBlocks] = {}
        self._digests: dict[int, tuple[weakref.ref[Array], bytes]] = {}
        #: what a cell of a block costs, by all that this depends on (see ``mixed.cell_cost``)
        self.cell_costs: dict[tuple[object, ...], float] = {}

    def find(self, step: Conv, fill: float = 1.0) -> DetectedBlocks:
        """The blocks of a layer that pay if a cell costs ``fill`` of a scattered non-zero.

        They are searched for once for the same weights, also where a model is built again. There
        are none where rows are too many to number.
        """
        if step.weight.shape[0] > MAX_ROWS:
            return DetectedBlocks((), 0)
        key = (self._digest(step), fill)
        if key not in self._known:
            while len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            blocks = lossless(step.weight, Price(fill), step.groups)
            self._known[key] = DetectedBlocks(blocks, _inside(step, blocks))
        return self._known[key]

    def _digest(self, step: Conv) -> bytes:
        """The hash of a layer's weights, their shape and groups; computed once for an array."""
        known = self._digests.get(id(step.weight))
        if known is not None and known[0]() is step.weight:  # and not another with its old id
            return known[1]
        while len(self._digests) >= KNOWN:
            del self._digests[next(iter(self._digests))]
        digest = hashlib.sha256(repr((step.weight.shape, step.groups)).encode())
        digest.update(np.ascontiguousarray(step.weight).data)
        self._digests[id(step.weight)] = (weakref.ref(step.weight), digest.digest())
        return digest.digest()

    def share(self, step: Conv, fill: float = 1.0) -> float:
        """Share of the non-zeros that lie in blocks."""
        return self.find(step, fill).inside / max(int(np.count_nonzero(step.weight)), 1)

    def work(self, step: Conv, rows: int, fill: float = 1.0) -> Work:
        """The layer's work in chunks of ``rows``; counted once for the same weights."""
        works = self.find(step, fill).works
        if rows not in works:
            works[rows] = _work(step, list(self.chunks(step, rows, fill)))
        return works[rows]

    def chunks(self, step: Conv, size: int, fill: float) -> Iterator[Chunk]:
        """Blocks cut into chunks of ``size`` rows, of which the last may have half as many."""
        for number, block in enumerate(self.find(step, fill).blocks):
            for begin in range(0, block.rows.size, size):
                rows = block.rows[begin : begin + size]
                if 2 * rows.size >= size:
                    yield Chunk(rows, block.columns, number)


def _inside(step: Conv, blocks: tuple[Block, ...]) -> int:
    """Non-zeros of the layer that lie in ``blocks``."""
    row, column = nonzeros(step.weight, step.groups)
    if not blocks:
        return 0
    return int(members(blocks, step.weight.shape[0], row, column).sum())


def members(blocks: Iterable[Block], outputs: int, row: Ints, column: Ints) -> Mask:
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


def _work(step: Conv, chunks: list[Chunk]) -> Work:
    row, column = nonzeros(step.weight, step.groups)
    outputs = step.weight.shape[0]
    outside = row[~members((Block(c.rows, c.columns) for c in chunks), outputs, row, column)]
    visited = np.ones(outputs, np.bool_)  # by themselves
    for chunk in chunks:
        visited[chunk.rows] = False
    visited[outside] = True
    return Work(
        sum(chunk.columns.size for chunk in chunks), len(chunks), outside.size, int(visited.sum())
    )
