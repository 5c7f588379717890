"""The blocks of a regrouped checkpoint, from its weights alone.

Regrouping leaves every row dense on the columns of its block, so rows of one block have equal
*supports*: the same columns at which they are not zero. Row sets are disjoint, so the sets of rows
of equal support are the blocks, exactly; two blocks with the same columns come back as one. A
weight inside a block that training left at exactly zero takes its row out of the block: with
``near`` the row goes back to the block whose support holds all of its own, if it lacks few.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Block, Ints, nonzeros


def recover(weight: Array, groups: int = 1, near: float = 0.0) -> tuple[Block, ...]:
    """The blocks of a weight [outputs, inputs / groups, taps...], by their first rows.

    Every row that is not empty is in exactly one block, if need be in one of a single row, so the
    blocks hold all non-zeros, and without ``near`` nothing else.

    Args:
        weight: as stored.
        groups: of the convolution.
        near: a row may lack up to this share of its block's columns.
    """
    row, column = nonzeros(weight, groups)
    ends = np.cumsum(np.bincount(row, minlength=weight.shape[0]))
    supports = np.split(column, ends[:-1])
    rows_by_columns: dict[bytes, list[int]] = {}
    for index, support in enumerate(supports):
        if support.size:
            rows_by_columns.setdefault(support.tobytes(), []).append(index)
    blocks = [(rows, supports[rows[0]]) for rows in rows_by_columns.values()]
    if near > 0:
        blocks = _join(blocks, near)
    ordered = sorted((sorted(rows), columns) for rows, columns in _plain(blocks))
    return tuple(Block(np.array(r, np.int64), np.array(c, np.int64)) for r, c in ordered)


def _plain(blocks: list[tuple[list[int], Ints]]) -> list[tuple[list[int], list[int]]]:
    return [(rows, columns.tolist()) for rows, columns in blocks]


def _join(blocks: list[tuple[list[int], Ints]], near: float) -> list[tuple[list[int], Ints]]:
    """Small blocks into the nearest wider one that holds their columns, widest first."""
    kept: list[tuple[list[int], Ints]] = []
    for rows, columns in sorted(blocks, key=lambda b: (-b[1].size, -len(b[0]), b[0])):
        for into, wide in reversed(kept):  # the narrowest that is wide enough
            lacks = wide.size - columns.size
            if lacks <= near * wide.size and np.isin(columns, wide, assume_unique=True).all():
                into.extend(rows)
                break
        else:
            kept.append((list(rows), columns))
    return kept
