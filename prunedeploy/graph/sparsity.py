"""Counts the zeros of one weight, and the patterns that they form, with NumPy, row by row.

The patterns are those that decide what an engine can do with the zeros. Whole rows (dead output
channels) and whole columns (dead input channels) can be removed. At most two non-zeros in every
aligned group of four input channels is the 2:4 pattern of sparse tensor cores (Mishra et al.,
"Accelerating Sparse Deep Neural Networks", 2021). Rows that share one set of non-zero columns
form a dense block, as regrouping leaves them (Chen et al., "Coarsening the Granularity", ICML
2022). What is left is scattered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array

# The smallest normal float32. Training with weight decay leaves dead channels as denormals (about
# 1e-41), seldom as exact zeros; kernels that flush denormals compute with zero anyway.
TINY = 2.0**-126

_CHUNK = 2**22  # elements looked at together, so that a large layer is never held twice
_DIGEST = 16  # bytes: two different row patterns meet with probability below 1e-30


@dataclass(frozen=True)
class Pattern:
    """The zeros of one weight; a weight below ``TINY`` in size counts as zero.

    ``two_four`` is the share of aligned groups of four input channels that hold at most two
    non-zeros, None where a group has fewer than four input channels. ``blocks`` counts the sets of
    two or more rows that share the same two or more non-zero columns; ``block_share`` is the share
    of all non-zeros in them and ``largest_block`` the (rows, columns) of the one with most weights.
    ``tiny`` weights are below ``TINY`` but not exactly zero.
    """

    weights: int
    nonzero: int
    density: float
    outputs: int
    dead_outputs: int
    inputs: int
    dead_inputs: int
    two_four: float | None
    blocks: int
    block_share: float
    largest_block: tuple[int, int]
    tiny: int
    nonfinite: int


def measure(weight: Array, groups: int = 1) -> Pattern:
    """The pattern of ``weight`` of shape (outputs, inputs / groups, taps).

    The rows of a group lie together, as in a grouped convolution. NaN and infinity count as
    non-zero and are counted apart.
    """
    outputs, inputs, taps = weight.shape
    counts = _Counts(groups, inputs)
    for first, rows in _chunks(weight):
        group = np.arange(first, first + len(rows)) * groups // max(outputs, 1)
        counts.add(np.abs(rows), group)
    blocks = [(n, cols) for n, cols in counts.patterns.values() if n > 1 and cols > 1]
    in_blocks = sum(n * cols for n, cols in blocks)
    total = outputs * inputs * taps
    return Pattern(
        weights=total,
        nonzero=counts.nonzero,
        density=counts.nonzero / total if total else 0.0,
        outputs=outputs,
        dead_outputs=counts.dead_rows,
        inputs=inputs * groups,
        dead_inputs=int(np.count_nonzero(~counts.live_columns)),
        two_four=counts.fitting_fours / counts.fours if counts.fours else None,
        blocks=len(blocks),
        block_share=in_blocks / counts.nonzero if counts.nonzero else 0.0,
        largest_block=max(blocks, key=lambda b: b[0] * b[1], default=(0, 0)),
        tiny=counts.tiny,
        nonfinite=counts.nonfinite,
    )


def _chunks(weight: Array) -> Iterator[tuple[int, NDArray[np.float32]]]:
    outputs, inputs, taps = weight.shape
    step = max(1, _CHUNK // max(inputs * taps, 1))
    for first in range(0, outputs, step):
        yield first, np.asarray(weight[first : first + step]).astype(np.float32, copy=False)


class _Counts:
    """The running counts over the rows of one weight."""

    def __init__(self, groups: int, inputs: int) -> None:
        self.nonzero = self.dead_rows = self.tiny = self.nonfinite = 0
        self.fours = self.fitting_fours = 0
        self.live_columns = np.zeros((groups, inputs), dtype=np.bool_)
        self.patterns: dict[tuple[int, bytes], tuple[int, int]] = {}  # -> rows, columns

    def add(self, size: NDArray[np.float32], group: NDArray[np.int_]) -> None:
        """Count rows of absolute values; ``group`` is the group of each row."""
        zero = size < TINY
        live = ~zero  # so that NaN is live
        self.nonzero += int(np.count_nonzero(live))
        self.tiny += int(np.count_nonzero(zero & (size > 0)))
        self.nonfinite += int(np.count_nonzero(~np.isfinite(size)))
        self.dead_rows += int(np.count_nonzero(~live.any(axis=(1, 2))))
        if len(self.live_columns) == 1:
            self.live_columns[0] |= live.any(axis=(0, 2))
        else:
            np.logical_or.at(self.live_columns, group, live.any(axis=2))
        self._add_fours(live)
        self._add_patterns(live.reshape(len(live), -1), group)

    def _add_fours(self, live: NDArray[np.bool_]) -> None:
        rows, inputs, taps = live.shape
        if inputs < 4:
            return
        if inputs % 4:  # the last group is filled up with zeros, as the hardware needs it
            live = np.pad(live, ((0, 0), (0, -inputs % 4), (0, 0)))
        fours = live.reshape(rows, -1, 4, taps).sum(axis=2, dtype=np.uint8)
        self.fours += fours.size
        self.fitting_fours += int(np.count_nonzero(fours <= 2))

    def _add_patterns(self, live: NDArray[np.bool_], group: NDArray[np.int_]) -> None:
        columns = live.sum(axis=1)
        for bits, of, cols in zip(np.packbits(live, axis=1), group, columns, strict=True):
            key = int(of), hashlib.blake2b(bits.tobytes(), digest_size=_DIGEST).digest()
            self.patterns[key] = self.patterns.get(key, (0, 0))[0] + 1, int(cols)
