"""Blocks that lose nothing, in a mask that is scattered or nearly in blocks.

Every block is stored whole, zeros inside included; non-zeros outside of all blocks stay scattered,
also those of rows that are in a block. What this takes, counted in scattered non-zeros:

    cell * (rows * columns of every block) + (non-zeros outside) + visit * (rows in blocks)

which is brought down from a few rows that are alike: by turns the block has every column whose
non-zeros in its rows pay, and every free row whose non-zeros in its columns do. Each turn lowers
the sum. A row is in one block at most. Where nothing is alike, as in random masks, a sample of the
rows says so, and nothing else is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Ints, dense_mask, matrix_shape
from prunedeploy.passes.blocks.recover import recover

MIN_ROWS = 4  # of a block
PATIENCE = 32  # rows in a row that resemble no other: then the rest is taken to be alike in that
ROUNDS = 8  # of columns and rows, at most
MAX_CELLS = 1 << 24  # of a layer that is searched


@dataclass(frozen=True)
class Price:
    """The cost of blocks, counted in scattered non-zeros.

    Args:
        cell: cost of a cell of a block, zero or not; below 1, or no block is worth it.
        visit: cost of a row with non-zeros outside of its block, whose accumulators are spilled.
    """

    cell: float
    visit: float = 4.0


def lossless(weight: Array, price: Price, groups: int = 1) -> tuple[Block, ...]:
    """Blocks of a weight [outputs, inputs / groups, taps...] that take less time than its rows.

    Row sets are disjoint. Sets of rows with equal columns (``recover``) are blocks in any case, and
    the only ones of very large layers.
    """
    if not weight.size:
        return ()
    exact = [b for b in recover(weight, groups) if b.rows.size >= MIN_ROWS]
    taken = np.zeros(len(weight), np.bool_)
    for block in exact:
        taken[block.rows] = True
    if price.cell >= 1 or taken.all() or math.prod(matrix_shape(weight.shape, groups)) > MAX_CELLS:
        return tuple(exact)
    search = _Search(dense_mask(weight, groups).astype(np.float32), price, ~taken)
    blocks = [search.extend(block) for block in exact]
    blocks.extend(search.blocks())
    return tuple(sorted(blocks, key=lambda block: int(block.rows[0])))


class _Search:
    """The rows that are in no block yet."""

    def __init__(self, values: NDArray[np.float32], price: Price, free: NDArray[np.bool_]) -> None:
        self.price, self.free = price, free & values.any(1)
        # columns that one row has are of no use
        self.columns: Ints = np.flatnonzero(values.sum(0) > 1)
        self.values = values
        self.few = values[:, self.columns]
        self.scale = 1 / np.sqrt(np.maximum(self.few.sum(1), 1))

    def extend(self, block: Block) -> Block:
        """``block`` with the free rows that lack few of its columns."""
        rows = self._rows(self.values[:, block.columns])
        self.free[rows] = False
        return Block(np.sort(np.concatenate([block.rows, rows])), block.columns)

    def blocks(self) -> Iterator[Block]:
        """Yield blocks grown from rows drawn at random, but always the same."""
        failed = 0
        for row in np.random.default_rng(0).permutation(np.flatnonzero(self.free)):
            if failed == PATIENCE:
                return
            if not self.free[row]:
                continue
            block = self._from(int(row))
            failed = 0 if block else failed + 1
            if block:
                self.free[block.rows] = False
                yield block

    def _from(self, row: int) -> Block | None:
        """The block that the rows most like ``row`` lead to, if it is worth its price."""
        similarity = np.where(self.free, self.few @ self.few[row] * self.scale, -1)
        similarity[row] = np.inf
        rows: Ints = np.sort(np.argsort(-similarity, kind="stable")[:MIN_ROWS])
        columns = self._columns(rows)
        for _ in range(ROUNDS):
            before, rows = rows, self._rows(self.few[:, columns])
            if rows.size < MIN_ROWS:
                return None
            columns = self._columns(rows)
            if np.array_equal(rows, before):
                break
        inside = self.few[np.ix_(rows, columns)].sum()
        cost = self.price.cell * rows.size * columns.size + self.price.visit * rows.size
        return Block(rows, self.columns[columns]) if inside > cost else None

    def _columns(self, rows: Ints) -> Ints:
        return np.flatnonzero(self.few[rows].sum(0) > self.price.cell * rows.size)

    def _rows(self, inside: NDArray[np.float32]) -> Ints:
        worth = inside.sum(1) > self.price.cell * inside.shape[1] + self.price.visit
        return np.flatnonzero(self.free & worth)
