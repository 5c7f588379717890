"""Print the rows of a sweep as the Markdown tables of docs/sparsify.md.

    prunedeploy sweep benchmarks/recipes/digits.toml -o digits.sweep
    python benchmarks/sparsify_table.py digits.sweep

The first table has all configurations; a method's rows with the mask shuffled within layers follow
it. Differences are to the dense network of the same seeds, with 95 % intervals; a star marks those
whose p, corrected for all of the table (Holm), is below 0.05. Then, where the rows allow it: the
sparsities of each method side by side; each method that prunes before training against its own mask
shuffled; how far STR and STR-BN are from the sparsity asked for; and whether sparsity,
multiplications, non-zeros and latencies have one order (Kendall's tau).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from prunedeploy.core.files import from_json
from prunedeploy.sparsify.methods import METHODS
from prunedeploy.sparsify.row import DENSE, Latency, Row
from prunedeploy.sparsify.table import Cell, Comparison, Interval, cells, compare, holm
from prunedeploy.sweep.plot import name_of
from prunedeploy.sweep.report import orders

ALPHA = 0.05
NOT_MEASURED = "not measured"
RUNTIMES = {"ort": "ONNX Runtime", "sparse": "sparse runtime", "hybrid": "hybrid"}
THRESHOLDS = ("str", "str_bn")


def main() -> None:
    """Read the rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(text_of(rows_in(parser.parse_args().folder)))


def rows_in(folder: Path) -> list[Row]:
    """The rows of a sweep's folder, by their seeds."""
    rows = [from_json(Row, each.read_text()) for each in (folder / "rows").glob("*.json")]
    return sorted(rows, key=lambda row: row.recipe.seed)


def text_of(rows: Sequence[Row]) -> str:
    """All tables that the rows allow."""
    order = {name: at for at, name in enumerate(METHODS)}
    made = sorted(cells(rows), key=lambda cell: _order(cell, order))
    parts = (everything(made), side_by_side(made), shuffled(made), missed(rows), kendall(made))
    return "\n\n".join(part for part in parts if part)


def _order(cell: Cell, order: dict[str, int]) -> tuple[float, int, bool]:
    """Channels behind weights, then the sparsity, the method, and shuffled masks last."""
    method = cell.recipe.method
    kind = METHODS[method.name].kind == "channels" and "refill" not in method.name
    return kind + method.sparsity / 2, order[method.name], "shuffle" in method.options


def everything(made: Sequence[Cell]) -> str:
    """A row a configuration: accuracy, sparsities, what training cost, and deployed latencies."""
    columns: dict[str, Callable[[Cell], str]] = {
        "method": name_of,
        "seeds": lambda cell: str(len(cell.trainings)),
        "accuracy, %": lambda cell: interval(cell.accuracy, ""),
        "to dense, points": lambda cell: difference(cell.compared),
        "zeros": lambda cell: f"{cell.mean(lambda row: row.outcome.weight_sparsity):.1%}",
        "units gone": lambda cell: f"{cell.mean(lambda row: row.outcome.unit_sparsity):.1%}",
        "steps": lambda cell: f"{cell.mean(lambda row: row.outcome.steps):.0f}",
        "s": lambda cell: f"{cell.mean(lambda row: row.cost.seconds):.0f}",
        "MB": lambda cell: f"{cell.mean(lambda row: row.cost.peak_memory_bytes / 1e6):.0f}",
        "Wh": lambda cell: _energy(cell.mean(lambda row: row.cost.energy_kwh)),
        **_latencies(made),
    }
    lines = [[value(cell) for value in columns.values()] for cell in made]
    return table([*columns], lines)


def _energy(kwh: float | None) -> str:
    return NOT_MEASURED if kwh is None else f"{1e3 * kwh:.3g}"


def _latencies(made: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """A column for each target and runtime, with all of its batches."""
    seen: dict[tuple[str, str, str], dict[int, None]] = {}
    for target, each in _deployed(made):
        if each.runtime != DENSE:
            seen.setdefault((target, each.runtime, each.kind), {})[each.batch] = None

    def column(target: str, runtime: str, batches: Iterable[int]) -> Callable[[Cell], str]:
        def value(cell: Cell) -> str:
            times = [cell.latency(target, runtime, batch) for batch in batches]
            if not any(times):
                return NOT_MEASURED
            return " / ".join("–" if time is None else f"{time:.3g}" for time in times)

        return value

    return {
        f"{target}, {RUNTIMES.get(runtime, runtime)}, batch {' / '.join(map(str, sorted(batches)))}"
        f", ms {kind}": column(target, runtime, sorted(batches))
        for (target, runtime, kind), batches in sorted(seen.items())
    }


def _deployed(made: Sequence[Cell]) -> list[tuple[str, Latency]]:
    return [
        (row.deployed.target, each)
        for cell in made
        for row in cell.rows
        if row.deployed is not None
        for each in row.deployed.latencies
    ]


def side_by_side(made: Sequence[Cell]) -> str:
    """The difference to dense of each method at each of its sparsities, where it has several."""
    groups: dict[tuple[bool, str], dict[float, Cell]] = {}
    for cell in made:
        method = cell.recipe.method
        if cell.compared is not None:
            channels = METHODS[method.name].kind == "channels" and "refill" not in method.name
            name = name_of(_at(cell, 0.0))
            groups.setdefault((channels, name), {})[method.sparsity] = cell
    parts = []
    for channels in (False, True):
        shown = {name: each for (of, name), each in groups.items() if of == channels}
        shares = sorted({share for each in shown.values() for share in each})
        if len(shares) > 1:
            head = [f"{share:.0%} of {'channels' if channels else 'weights'}" for share in shares]
            lines = [
                [name, *(difference(each[x].compared) if x in each else "" for x in shares)]
                for name, each in shown.items()
            ]
            parts.append(table(["to dense, points", *head], lines))
    return "\n\n".join(parts)


def _at(cell: Cell, sparsity: float) -> Cell:
    method = replace(cell.recipe.method, sparsity=sparsity)
    return replace(cell, recipe=replace(cell.recipe, method=method))


def shuffled(made: Sequence[Cell]) -> str:
    """What a criterion knows beyond its budget: the method less its own mask, shuffled."""
    pairs = []
    plain = {repr(cell.recipe.method): cell for cell in made}
    for cell in made:
        method = cell.recipe.method
        if "shuffle" in method.options:
            options = {key: each for key, each in method.options.items() if key != "shuffle"}
            other = plain.get(repr(replace(method, options=options)))
            if other is not None and (compared := _paired(other, cell)) is not None:
                pairs.append((other, compared))
    corrected = holm([compared.p for _, compared in pairs])
    lines = [
        [name_of(cell), str(compared.seeds), difference(replace(compared, holm=p)), f"{p:.2g}"]
        for (cell, compared), p in zip(pairs, corrected, strict=True)
    ]
    return table(["method", "seeds", "to its mask shuffled, points", "p (Holm)"], lines)


def _paired(one: Cell, other: Cell) -> Comparison | None:
    """The difference of two configurations over the seeds that both have."""
    seeds = {row.recipe.seed: row for row in other.trainings}
    pairs = [(row, seeds[row.recipe.seed]) for row in one.trainings if row.recipe.seed in seeds]
    return compare(pairs) if pairs else None


def missed(rows: Sequence[Row]) -> str:
    """How far trained thresholds are from the sparsity asked for, at worst."""
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        method = row.recipe.method
        if method.name in THRESHOLDS:
            reached = row.outcome.unit_sparsity
            groups.setdefault((method.name, method.sparsity), []).append(reached)
    lines = [
        [
            name,
            str(len(reached)),
            f"{asked:.1%}",
            f"{100 * min(reached):.2f} to {100 * max(reached):.2f}",
            f"{100 * max(abs(each - asked) for each in reached):.2f}",
        ]
        for (name, asked), reached in sorted(groups.items())
    ]
    return table(["method", "seeds", "asked for", "reached, %", "off by at most, points"], lines)


def kendall(made: Sequence[Cell]) -> str:
    """Kendall's tau of each pair of sizes and latencies."""
    lines = [
        [f"{each.first} and {each.second}", f"{each.tau:.2f}", f"{each.p:.2g}", str(each.count)]
        for each in orders(made)
        if not math.isnan(each.tau)
    ]
    return table(["Kendall's tau of", "tau", "p", "configurations"], lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right; nothing without lines."""
    if not lines:
        return ""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([_line(head), rule, *map(_line, lines)])


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def difference(compared: Comparison | None) -> str:
    """A difference in points with its interval; a star where it is significant after Holm."""
    if compared is None:
        return ""
    star = "\\*" if compared.holm < ALPHA else ""
    return interval(compared.difference, "+") + star


def interval(given: Interval, sign: str) -> str:
    """Percents or points, with the interval where there is one."""
    mean = f"{100 * given.mean:{sign}.1f}"
    if math.isnan(given.low):
        return mean
    return f"{mean} ({100 * given.low:{sign}.1f} to {100 * given.high:{sign}.1f})"


if __name__ == "__main__":
    main()
