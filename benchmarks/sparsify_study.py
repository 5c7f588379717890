"""Run a study of sparse forms or of channel vectors, and print its tables; one command each.

    python benchmarks/sparsify_study.py forms -o forms.sweep
    python benchmarks/sparsify_study.py channels -o channels.sweep

``--digits`` takes the digits of scikit-learn in the place of CIFAR-10. *Forms* compares where a
ticket comes from with the form it is given, at equal predicted latency: between the sparsities that
were trained, accuracy is interpolated over the logarithm of the latency. *Channels* changes one of
score, budget and schedule at a time.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import sparsify_table as tables

from prunedeploy.sparsify.methods.gradual import OPTIONS
from prunedeploy.sparsify.row import DENSE
from prunedeploy.sparsify.table import DENSE_METHOD, Cell, cells
from prunedeploy.sweep.pareto import machines
from prunedeploy.sweep.sweep import sweep

RECIPES = Path(__file__).parent / "recipes"
SPEEDS = (1.5, 2.0, 3.0)  # in multiples of the dense network in ONNX Runtime
FORMS = ("scattered", "lossless", "refill", "refill_plus", "regroup")
FACTORS = ("score", "budget", "schedule")
NONE = "–"


def main() -> None:
    """Sweep what is missing of the study's grid, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("forms", "channels"))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--digits", action="store_true", help="in the place of CIFAR-10")
    parser.add_argument("-j", "--jobs", type=int, default=1)
    given = parser.parse_args()
    name = f"{given.study}_digits" if given.digits else given.study
    done = sweep(RECIPES / f"{name}.toml", given.output or Path(f"{name}.sweep"), jobs=given.jobs)
    for each in done.failed:
        print(f"failed: {each.name}: {each.reason}")
    made = cells(done.rows)
    own = [*at_equal_latency(made), smallest_t2(made)] if given.study == "forms" else factors(made)
    print("\n\n".join(part for part in (*own, tables.text_of(done.rows)) if part))


def at_equal_latency(made: Sequence[Cell]) -> list[str]:
    """For each machine, batch and speed a table of sources by forms."""
    dense = next((cell for cell in made if cell.recipe.method.name == DENSE_METHOD), None)
    parts = []
    for target, batch in machines(made) if dense else ():
        whole = dense.latency(target, DENSE, batch) if dense else None
        for speed in SPEEDS if whole else ():
            assert whole is not None
            head = f"{target}, batch {batch}, {speed:g}x"
            parts.append(_sources(made, target, batch, whole / speed, head))
    return parts


def _sources(made: Sequence[Cell], target: str, batch: int, wanted: float, head: str) -> str:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell in made:
        form, source = form_of(cell), str(cell.recipe.method.options.get("source", "imp"))
        time = cell.fastest(target, batch)
        if form and time and "t2" not in cell.recipe.method.options:
            point = (time[1], 100 * cell.accuracy.mean)
            curves.setdefault((source, form), []).append(point)
    lines = []
    for source in dict.fromkeys(source for source, _ in curves):
        reached = [at_latency(curves.get((source, form), []), wanted) for form in FORMS]
        lines.append([source, *(NONE if each is None else f"{each:.1f}" for each in reached)])
    return tables.table([head, *FORMS], lines)


def form_of(cell: Cell) -> str:
    """The form of a ticket that a configuration has; none for other methods."""
    method = cell.recipe.method
    if method.name == "ticket":
        return str(method.options.get("form", "scattered"))
    return method.name if method.name in FORMS else ""


def at_latency(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """The accuracy at a latency, interpolated between neighbours; None where none is as fast.

    Where the slowest is faster than wanted, its own.
    """
    ordered = sorted(points)
    if not ordered or ordered[0][0] > wanted:
        return None
    for (fast, low), (slow, high) in itertools.pairwise(ordered):
        if fast <= wanted < slow:
            share = math.log(wanted / fast) / math.log(slow / fast)
            return low + share * (high - low)
    return ordered[-1][1]


def smallest_t2(made: Sequence[Cell]) -> str:
    """Whether the smallest t2 that meets a latency is the best of those that do."""
    dense = next((cell for cell in made if cell.recipe.method.name == DENSE_METHOD), None)
    tried: dict[str, list[tuple[int, Cell]]] = {}
    for cell in made:
        method = cell.recipe.method
        if method.name == "regroup" and "t2" in method.options:
            others = {key: each for key, each in method.options.items() if key != "t2"}
            group = ", ".join([f"{method.sparsity:.0%}", *(f"{k} {v}" for k, v in others.items())])
            tried.setdefault(group, []).append((int(method.options["t2"]), cell))
    lines = []
    for target, batch in machines(made) if dense else ():
        whole = dense.latency(target, DENSE, batch) if dense else None
        for speed in SPEEDS if whole else ():
            assert whole is not None
            for group, each in tried.items():
                lines.append(
                    _t2(f"{target}, {batch}, {speed:g}x", group, each, target, batch, whole / speed)
                )
    head = [
        "target, batch, speed",
        "ticket",
        "smallest t2 that meets it",
        "its accuracy, %",
        "best t2 that meets it",
        "its accuracy, %",
    ]
    return tables.table(head, [line for line in lines if line])


def _t2(
    what: str,
    group: str,
    tried: Sequence[tuple[int, Cell]],
    target: str,
    batch: int,
    wanted: float,
) -> list[str]:
    meets = [
        (t2, cell.accuracy.mean)
        for t2, cell in sorted(tried, key=lambda each: each[0])
        if (time := cell.fastest(target, batch)) is not None and time[1] <= wanted
    ]
    if not meets:
        return []
    first, best = meets[0], max(meets, key=lambda each: (each[1], -each[0]))
    return [
        *(what, group, str(first[0]), f"{100 * first[1]:.1f}"),
        *(str(best[0]), f"{100 * best[1]:.1f}"),
    ]


def factors(made: Sequence[Cell]) -> list[str]:
    """A table for each factor, the others as by default."""
    parts = []
    for factor in FACTORS:
        lines = []
        for cell in made:
            options = cell.recipe.method.options
            set_ = [each for each in FACTORS if each in options]
            if cell.recipe.method.name != "gradual" or set_ not in ([factor], []):
                continue
            value = str(options.get(factor, OPTIONS[factor]))
            times = [cell.fastest(*machine) for machine in machines(made)]
            lines.append(
                [
                    *(value, tables.interval(cell.accuracy, ""), tables.difference(cell.compared)),
                    *(NONE if each is None else f"{each[1]:.3g} ({each[0]})" for each in times),
                ]
            )
        head = [f"{target}, batch {batch}, ms" for target, batch in machines(made)]
        parts.append(tables.table([factor, "accuracy, %", "to dense, points", *head], lines))
    return parts


if __name__ == "__main__":
    main()
