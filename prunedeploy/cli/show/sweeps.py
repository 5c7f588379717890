"""Prints a sweep: a line for each configuration, what failed, where the report is."""

from __future__ import annotations

import math

from prunedeploy.cli.tables import count, say, table
from prunedeploy.sparsify.table import Cell, cells
from prunedeploy.sweep.pareto import machines
from prunedeploy.sweep.plot import name_of
from prunedeploy.sweep.sweep import SweepResult

MAX_TIMES = 2  # columns of latencies: more do not fit a line, and the report has all


def print_sweep(done: SweepResult) -> None:
    """Print accuracies, differences to dense, zeros and latencies, then the files."""
    made = cells(done.rows)
    shown = machines(made)[:MAX_TIMES]
    times = [f"{target} b{batch}, ms" for target, batch in shown]
    rows = [
        (
            name_of(cell),
            str(len(cell.trainings)),
            f"{100 * cell.accuracy.mean:.2f}",
            _difference(cell),
            f"{cell.mean(lambda row: row.outcome.weight_sparsity):.1%}",
            *(_time(cell, target, batch) for target, batch in shown),
        )
        for cell in made
    ]
    table(("method", "seeds", "acc., %", "to dense (95 %)", "zeros", *times), rows)
    if shown:
        say("", "Latencies are of the fastest runtime.")
    say()
    for failure in done.failed:
        say(f"failed  {failure.name}: {failure.reason}")
    say(f"rows    {count(done.computed)} computed, {count(len(done.rows))} there in {done.folder}")
    say(f"report  {done.report}")


def _difference(cell: Cell) -> str:
    if cell.compared is None:
        return "-"
    interval = cell.compared.difference
    if math.isnan(interval.low):
        return f"{100 * interval.mean:+.2f}"
    return f"{100 * interval.mean:+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"


def _time(cell: Cell, target: str, batch: int) -> str:
    fastest = cell.fastest(target, batch)
    return "-" if fastest is None else f"{fastest[1]:.3g}"
