"""Print the rows of a sweep as the Markdown table of docs/sparsify.md.

    prunedeploy sweep benchmarks/recipes/digits.toml -o digits.sweep
    python benchmarks/sparsify_table.py digits.sweep

A method's rows with the mask shuffled within layers follow it. Differences are to the dense network
of the same seeds, with 95 % intervals; a star marks those whose p, corrected for all of the table
(Holm), is below 0.05.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from prunedeploy.core.files import from_json
from prunedeploy.sparsify.methods import METHODS
from prunedeploy.sparsify.row import Row
from prunedeploy.sparsify.table import Cell, Interval, cells
from prunedeploy.sweep.plot import name_of

HEAD = "| method | seeds | accuracy, % | to dense, points | zeros | units gone | steps | s | MB |"
RULE = "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
ALPHA = 0.05


def main() -> None:
    """Read the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    rows = [from_json(Row, x.read_text()) for x in (parser.parse_args().folder / "rows").iterdir()]
    order = {name: at for at, name in enumerate(METHODS)}
    rows.sort(key=lambda row: row.recipe.seed)
    made = sorted(cells(rows), key=lambda cell: _order(cell, order))
    print(HEAD, RULE, *map(_line, made), sep="\n")


def _order(cell: Cell, order: dict[str, int]) -> tuple[float, int, bool]:
    """Channels behind weights, then the sparsity, the method, and shuffled masks last."""
    method = cell.recipe.method
    kind = METHODS[method.name].kind == "channels" and "refill" not in method.name
    return kind + method.sparsity / 2, order[method.name], "shuffle" in method.options


def _line(cell: Cell) -> str:
    values = (
        name_of(cell),
        str(len(cell.trainings)),
        _interval(cell.accuracy, ""),
        _difference(cell),
        f"{cell.mean(lambda row: row.outcome.weight_sparsity):.1%}",
        f"{cell.mean(lambda row: row.outcome.unit_sparsity):.1%}",
        f"{cell.mean(lambda row: row.outcome.steps):.0f}",
        f"{cell.mean(lambda row: row.cost.seconds):.0f}",
        f"{cell.mean(lambda row: row.cost.peak_memory_bytes / 1e6):.0f}",
    )
    return f"| {' | '.join(values)} |"


def _difference(cell: Cell) -> str:
    if cell.compared is None:
        return ""
    star = "\\*" if cell.compared.holm < ALPHA else ""
    return _interval(cell.compared.difference, "+") + star


def _interval(interval: Interval, sign: str) -> str:
    mean = f"{100 * interval.mean:{sign}.1f}"
    if math.isnan(interval.low):
        return mean
    return f"{mean} ({100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f})"


if __name__ == "__main__":
    main()
