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
    """Quadruples of the numbers of ``bits``, which are in the order in which they begin one.

    Equal sets of rows are one kind: what is searched is kinds, of which there are few where few
    rows have a non-zero.
    """
    kinds, first, kind = np.unique(bits, return_index=True, return_inverse=True)
    order = np.argsort(first)  # kinds in the order in which they begin
    kinds, rank = kinds[order], np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    members: list[list[int]] = [[] for _ in kinds]
    for number, of in enumerate(rank[kind.reshape(-1)].tolist()):
        members[of].append(number)
    for numbers in members:
        numbers.reverse()
    left = np.ones(kinds.size, np.bool_)
    made, current = [], 0
    while True:
        while current < kinds.size and not members[current]:
            current += 1
        if current == kinds.size:
            break
        union, four = kinds[current], [_take(members, left, current)]
        while len(four) < QUAD and (best := _best(kinds, left, union)) is not None:
            union = union | kinds[best]
            four.append(_take(members, left, best))
        made.append(four + [-1] * (QUAD - len(four)))
    return np.array(made, np.int64).reshape(-1, QUAD)


def _take(members: list[list[int]], left: NDArray[np.bool_], kind: int) -> int:
    """The next column of a kind."""
    number = members[kind].pop()
    left[kind] = bool(members[kind])
    return number


def _best(kinds: NDArray[np.uint32], left: NDArray[np.bool_], union: np.uint32) -> int | None:
    """The kind that shares the most rows with ``union``, then the one that adds the fewest."""
    shared = np.bitwise_count(kinds & union).astype(np.int16)
    score = shared * np.int16(65) - np.bitwise_count(kinds).astype(np.int16)
    score[~left] = -1000
    best = int(score.argmax())
    return best if left[best] else None
