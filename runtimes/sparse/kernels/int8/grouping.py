"""Which columns of some rows of a weight matrix are multiplied together, four at a time.

An instruction multiplies four columns for one row and one vector of pixels, so a row costs one
for every quadruple in which it has a non-zero. Columns whose non-zeros are in the same rows belong
together. Quadruples are made greedily: the column with the most non-zeros that is left, then three
times the one that shares the most rows with those taken, of equal ones the one that adds the
fewest rows, then the first. All is counted in whole numbers, so the same weights give the same
quadruples everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array

GROUP_ROWS = 28  # rows that share quadruples: 28 accumulators, and four registers for operands
QUAD = 4
DENSE = 0.6  # of the weights: from there on quadruples are full without a choice
Ints = NDArray[np.int64]


def quadruples(weights: Array) -> Ints:
    """The columns of ``weights`` [rows, columns] that have a non-zero, [quadruples, 4].

    Quadruples that are not full have -1 behind their columns.
    """
    used = np.flatnonzero(weights.any(axis=0))
    if np.count_nonzero(weights[:, used]) >= DENSE * len(weights) * max(used.size, 1):
        return _in_order(used)
    bits = _bits(weights[:, used])
    order = np.lexsort((np.arange(used.size), -np.bitwise_count(bits).astype(np.int64)))
    made = _matched(bits[order])
    return np.where(made < 0, -1, used[order][made])


def _in_order(columns: Ints) -> Ints:
    count = -(-columns.size // QUAD) * QUAD
    padded = np.full(count, -1, np.int64)
    padded[: columns.size] = columns
    return padded.reshape(-1, QUAD)


def _bits(weights: Array) -> NDArray[np.uint32]:
    """In which rows each column has a non-zero."""
    powers = (np.uint32(1) << np.arange(len(weights), dtype=np.uint32)).astype(np.uint64)
    made: NDArray[np.uint32] = ((weights != 0).T.astype(np.uint64) @ powers).astype(np.uint32)
    return made


def _matched(bits: NDArray[np.uint32]) -> Ints:
    """Quadruples of the numbers of ``bits``, which are in the order in which they begin one."""
    left, numbers, made = bits.copy(), np.arange(bits.size), []
    while left.size:
        union, four = left[0], [int(numbers[0])]
        left, numbers = left[1:], numbers[1:]
        while len(four) < QUAD and left.size:
            shared = np.bitwise_count(left & union).astype(np.int64)
            added = np.bitwise_count(left & ~union).astype(np.int64)
            best = int(np.argmax(shared * 64 - added))
            union |= left[best]
            four.append(int(numbers[best]))
            left, numbers = np.delete(left, best), np.delete(numbers, best)
        made.append(four + [-1] * (QUAD - len(four)))
    return np.array(made, np.int64).reshape(-1, QUAD)
