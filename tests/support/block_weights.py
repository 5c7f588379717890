"""Weights with blocks in them, whose blocks are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks import Block


def blocks_at(rows: int, columns: int, sizes: Sequence[tuple[int, int]], seed: int) -> list[Block]:
    """Blocks of these sizes: disjoint rows and any columns, in random places."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    found, at = [], 0
    for height, width in sizes:
        chosen = np.sort(order[at : at + height])
        at += height
        found.append(Block(chosen, np.sort(rng.choice(columns, width, replace=False))))
    assert at <= rows
    return found


def filled(shape: tuple[int, ...], blocks: Sequence[Block], seed: int) -> Array:
    """Weights of ``shape``, not zero in the blocks and zero elsewhere."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((shape[0], int(np.prod(shape[1:]))), np.float32)
    for block in blocks:
        values = rng.uniform(0.1, 1.0, (block.rows.size, block.columns.size))
        signs = rng.choice([-1.0, 1.0], values.shape)
        matrix[np.ix_(block.rows, block.columns)] = values * signs
    return matrix.reshape(shape)


def scattered(weight: Array, share: float, seed: int) -> Array:
    """``weight`` with further non-zeros in random places, in random rows."""
    rng = np.random.default_rng(seed)
    there = (rng.random(weight.shape) < share) & (weight == 0)
    there[rng.random(weight.shape[0]) < 0.5] = False
    return np.where(there, rng.standard_normal(weight.shape), weight).astype(np.float32)
