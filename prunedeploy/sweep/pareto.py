"""The Pareto front of accuracy against deployed latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunedeploy.sparsify.table import Cell


@dataclass(frozen=True)
class Point:
    """A configuration on a target: its fastest runtime's time, and whether none is better.

    ``front`` is True where no other is at least as accurate and as fast, and better in one.
    """

    cell: Cell
    runtime: str
    milliseconds: float
    front: bool


def points(cells: Sequence[Cell], target: str, batch: int) -> tuple[Point, ...]:
    """The configurations that have a latency on ``target``, by their latency."""
    timed = [(cell, time) for cell in cells if (time := cell.fastest(target, batch)) is not None]
    timed.sort(key=lambda each: (each[1][1], -each[0].accuracy.mean))
    ordered, best = [], -1.0
    for cell, (runtime, milliseconds) in timed:
        front = cell.accuracy.mean > best
        best = max(best, cell.accuracy.mean)
        ordered.append(Point(cell, runtime, milliseconds, front))
    return tuple(ordered)


def machines(cells: Sequence[Cell]) -> tuple[tuple[str, int], ...]:
    """The targets and batches that anything was deployed for, in their order."""
    seen = {
        (row.deployed.target, latency.batch): None
        for cell in cells
        for row in cell.rows
        if row.deployed is not None
        for latency in row.deployed.latencies
    }
    return tuple(seen)
