"""A layer's rows in groups, each with the columns that it reads: what repacking makes of blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks.blocks import Ints
from prunedeploy.passes.blocks.recover import recover

MIN_ROWS = 4  # of a block that becomes a layer of its own; the other rows are one together


@dataclass(frozen=True)
class Part:
    """Rows of a layer and the columns (channel times taps) that some of them is not zero in."""

    rows: Ints
    columns: Ints

    def channels(self, taps: int) -> Ints:
        """The input channels that the rows read."""
        return np.unique(self.columns // taps)

    def taps(self, taps: int) -> Ints:
        """The positions of the kernel that are not zero for all rows and channels."""
        return np.unique(self.columns % taps)


def parts_of(rows: Array) -> list[Part]:
    """Split a weight [outputs, inputs, taps] into its blocks and one part for the rest.

    Every row is in exactly one part. None where no weight is set.
    """
    blocks = recover(rows)
    if not blocks:
        return []
    parts = [Part(b.rows, b.columns) for b in blocks if b.rows.size >= MIN_ROWS]
    taken = np.zeros(len(rows), np.bool_)
    for part in parts:
        taken[part.rows] = True
    rest = np.flatnonzero(~taken)
    if rest.size:
        used = np.flatnonzero((rows[rest] != 0).reshape(rest.size, -1).any(0))
        if used.size:
            parts.append(Part(rest, used))
        else:  # rows that are nothing but their bias
            last = parts.pop()
            parts.append(Part(np.sort(np.concatenate([last.rows, rest])), last.columns))
    return parts


def by_channels(parts: list[Part], taps: int) -> list[Part]:
    """Parts that read the same channels as one."""
    merged: dict[bytes, Part] = {}
    for part in parts:
        key = part.channels(taps).tobytes()
        same = merged.get(key, Part(part.rows[:0], part.columns[:0]))
        rows = np.sort(np.concatenate([same.rows, part.rows]))
        merged[key] = Part(rows, np.union1d(same.columns, part.columns))
    return list(merged.values())
