"""The non-zeros of a layer as programs: balanced ranges of rows, each with its terms in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.steps import Conv

# A program longer than what the instruction caches hold runs at the speed of memory.
MAX_INSTRUCTIONS = 4000


@dataclass(frozen=True)
class Terms:
    """Non-zeros of one tap in a range of rows: by input channel, then by row of the range."""

    tap: int  # kernel row * kernel width + kernel column
    channels: Array
    rows: Array
    values: Array

    @property
    def loads(self) -> int:
        """Input channels that are read."""
        return int(np.count_nonzero(self.starts))

    @property
    def starts(self) -> Array:
        """For each term whether it is the first one of its input channel."""
        starts: Array = np.append(True, self.channels[1:] != self.channels[:-1])
        return starts


def balanced(counts: Sequence[int], programs: int, max_rows: int) -> list[range]:
    """Ranges of rows with about as many non-zeros each, none of more than ``max_rows`` rows.

    Args:
        counts: the non-zeros of each row; a row costs some instructions beside them.
        programs: how many ranges to make at least.
        max_rows: accumulators a thread.

    Example:
        >>> balanced([1, 1, 1, 9], 2, 64)
        [range(0, 3), range(3, 4)]
    """
    weights = np.asarray(counts, np.int64) + 5
    ranges: list[range] = []
    begin, left = 0, int(weights.sum())
    while begin < len(weights):
        programs_left = max(programs - len(ranges), -(-(len(weights) - begin) // max_rows))
        share = left / programs_left
        ends = np.cumsum(weights[begin : begin + max_rows])
        # the end whose sum is the nearest to a fair share of what is left
        end = begin + 1 + int(np.abs(ends - share).argmin())
        ranges.append(range(begin, end))
        left -= int(ends[end - begin - 1])
        begin = end
    return ranges


def row_counts(step: Conv) -> list[int]:
    """The non-zeros of each row."""
    flat = step.weight.reshape(step.weight.shape[0], -1)
    return [int(count) for count in np.count_nonzero(flat, axis=1)]


def terms(step: Conv, rows: range) -> list[Terms]:
    """The terms of a range of rows, tap after tap: the order in which they are summed."""
    outputs, depth, height, width = step.weight.shape
    part = step.weight[rows.start : rows.stop].reshape(len(rows), depth, height * width)
    tap_terms = []
    for tap in range(height * width):
        row, channel = np.nonzero(part[:, :, tap])
        values = part[row, channel, tap]
        if step.groups > 1:
            channel = channel + (rows.start + row) // (outputs // step.groups) * depth
        order = np.lexsort((row, channel))
        if order.size:
            tap_terms.append(
                Terms(tap, channel[order], row[order], values[order].astype(np.float32))
            )
    return tap_terms


def split(whole: Sequence[Terms], parts: int) -> list[list[Terms]]:
    """The terms in ``parts`` runs of about as many instructions; no input channel is in two."""
    costs = []
    for each in whole:
        costs.append(np.where(each.starts, 2, 1))
    if not costs:
        return [[] for _ in range(parts)]
    ends = np.cumsum(np.concatenate(costs))
    part_of = np.minimum((ends - 1) * parts // int(ends[-1]), parts - 1)
    result: list[list[Terms]] = [[] for _ in range(parts)]
    begin = 0
    for each, cost in zip(whole, costs, strict=True):
        own = part_of[begin : begin + len(cost)]
        begin += len(cost)
        leaders = np.flatnonzero(cost == 2)
        own = own[leaders][np.cumsum(cost == 2) - 1]  # a channel goes with its first term
        for part in range(parts):
            chosen = own == part
            if chosen.any():
                result[part].append(
                    Terms(each.tap, each.channels[chosen], each.rows[chosen], each.values[chosen])
                )
    return result
