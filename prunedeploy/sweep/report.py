"""The report of a sweep as one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from prunedeploy.reports.page import STYLE
from prunedeploy.sparsify.recipe import to_toml
from prunedeploy.sparsify.row import Row
from prunedeploy.sparsify.table import Agreement, Cell, Interval, agreements, cells
from prunedeploy.sweep.pareto import machines, points
from prunedeploy.sweep.plot import figure, name_of

OWN_STYLE = """
body { max-width: 72rem; }
figure svg { width: 100%; height: auto; font-size: 12px; }
figure text { fill: var(--text); } .grid { stroke: var(--soft); }
.front { fill: none; stroke: var(--bar); stroke-width: 1.5; stroke-dasharray: 5 4; }
.best { fill: var(--bar); } .other { fill: var(--base); }
.dense { stroke: var(--text); stroke-width: 2; }
.interval { stroke: var(--base); stroke-width: 1; }
a { color: inherit; } a:focus circle, a:hover circle { stroke: var(--text); stroke-width: 3; }
.recipe { display: none; } .recipe:target { display: block; }
.recipe { border-left: 3px solid var(--bar); padding-left: 1rem; margin: 1.5rem 0; }
td, th { white-space: nowrap; }
"""
NOTHING = "–"


def page(rows: Sequence[Row]) -> str:
    """The page of all rows: fronts by target and batch, the table, rank orders, recipes."""
    made = cells(rows)
    link = {id(cell): f"recipe-{number}" for number, cell in enumerate(made)}
    title = f"Sweep of {len(made)} configurations"
    parts = [f"<h1>{title}</h1>", f"<p>{escape(_conditions(rows, made))}</p>"]
    drawn = _figures(made, link)
    if drawn:
        parts.append(
            "<p>Each point is the mean over seeds, with its 95&nbsp;% interval, in the runtime that"
            " is fastest; a click shows its recipe. Points on the line have none above that is as"
            " fast.</p>"
        )
    parts += drawn
    parts += [_table(made, link), _orders(made)]
    parts += [_recipe(cell, link[id(cell)]) for cell in made]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _conditions(rows: Sequence[Row], made: Sequence[Cell]) -> str:
    """What all rows share, in a sentence."""
    networks = sorted({cell.recipe.network.name for cell in made})
    data = sorted({cell.recipe.data.path for cell in made})
    seeds = {row.recipe.seed for row in rows}
    versions = sorted({row.version for row in rows})
    tested = sorted({row.outcome.tested for row in rows})
    return (
        f"{len(rows)} rows: {', '.join(networks)} on {', '.join(data)}, {len(seeds)} seeds, "
        f"tested on {', '.join(map(str, tested))} examples, prunedeploy {', '.join(versions)}."
    )


def _figures(made: Sequence[Cell], link: dict[int, str]) -> list[str]:
    drawn = []
    for target, batch in machines(made):
        if shown := points(made, target, batch):
            kinds = {
                latency.kind
                for cell in made
                for row in cell.rows
                if row.deployed and row.deployed.target == target
                for latency in row.deployed.latencies
            }
            caption = f"{target}, batch {batch}: accuracy against {' and '.join(sorted(kinds))} "
            drawn.append(figure(shown, f"{caption}latency", link))
    return drawn


def _table(made: Sequence[Cell], link: dict[int, str]) -> str:
    columns = [*COLUMNS.items(), *_latencies(made).items()]
    several = len({cell.recipe.network.name for cell in made}) > 1
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    lines = []
    for cell in made:
        name = f"{cell.recipe.network.name}, " * several + name_of(cell)
        figures = "".join(f"<td>{escape(value(cell))}</td>" for _, value in columns)
        lines.append(f'<tr><th><a href="#{link[id(cell)]}">{escape(name)}</a></th>{figures}</tr>')
    return (
        f'<h2>All configurations</h2><div class="wide"><table><thead><tr><th>method</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
        "<p>Differences are to the dense network of the same seed, data and schedule, in points; p "
        "is corrected for all of them (Holm).</p>"
    )


def _latencies(made: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """A column for each target, runtime and batch."""
    seen = {
        (row.deployed.target, latency.runtime, latency.batch): None
        for cell in made
        for row in cell.rows
        if row.deployed is not None
        for latency in row.deployed.latencies
    }

    def column(key: tuple[str, str, int]) -> Callable[[Cell], str]:
        return lambda cell: _number(cell.latency(*key), 3)

    return {f"{key[0]} {key[1]}, batch {key[2]}, ms": column(key) for key in seen}


def _difference(cell: Cell) -> str:
    if cell.compared is None:
        return NOTHING
    return _interval(cell.compared.difference, signed=True)


def _p(cell: Cell) -> str:
    return NOTHING if cell.compared is None else f"{cell.compared.holm:.2g}"


def _energy(row: Row) -> float | None:
    return None if row.cost.energy_kwh is None else 1e3 * row.cost.energy_kwh


def _emissions(row: Row) -> float | None:
    return None if row.cost.emissions_kg is None else 1e3 * row.cost.emissions_kg


COLUMNS: dict[str, Callable[[Cell], str]] = {
    "seeds": lambda cell: str(len(cell.trainings)),
    "accuracy, %": lambda cell: _interval(cell.accuracy),
    "difference": _difference,
    "p": _p,
    "zeros": lambda cell: _share(cell.mean(lambda row: row.outcome.weight_sparsity)),
    "units removed": lambda cell: _share(cell.mean(lambda row: row.outcome.unit_sparsity)),
    "training, s": lambda cell: _number(cell.mean(lambda row: row.cost.seconds), 3),
    "memory, MB": lambda cell: _number(cell.mean(lambda row: row.cost.peak_memory_bytes / 1e6), 4),
    "energy, Wh": lambda cell: _number(cell.mean(_energy), 3),
    "CO2, g": lambda cell: _number(cell.mean(_emissions), 3),
}


def orders(made: Sequence[Cell]) -> tuple[Agreement, ...]:
    """Kendall's tau between sparsity, MACs, non-zeros and each deployed latency."""
    columns: dict[str, Sequence[float | None]] = {
        "sparsity": [-cell.recipe.method.sparsity for cell in made],
        "MACs": [_size(cell, "macs") for cell in made],
        "non-zeros": [_size(cell, "nonzero") for cell in made],
    }
    for target, batch in machines(made):
        best = [cell.fastest(target, batch) for cell in made]
        columns[f"latency on {target}, batch {batch}"] = [x and x[1] for x in best]
    return agreements(columns)


def _size(cell: Cell, name: str) -> float | None:
    sizes = [getattr(row.deployed, name) for row in cell.rows if row.deployed is not None]
    return sum(sizes) / len(sizes) if sizes else None


def _orders(made: Sequence[Cell]) -> str:
    taus = [each for each in orders(made) if not math.isnan(each.tau)]
    if not taus:
        return ""
    lines = "".join(
        f"<tr><th>{escape(each.first)} and {escape(each.second)}</th><td>{each.tau:.2f}</td>"
        f"<td>{each.p:.2g}</td><td>{each.count}</td></tr>"
        for each in taus
    )
    return (
        "<h2>Do sizes order as latencies do?</h2><p>Kendall's tau: 1 is the same order, 0 none. "
        "Sparsity counts downwards, as all others do.</p>"
        '<div class="wide"><table><thead><tr><th>pair</th><th>tau</th><th>p</th>'
        f"<th>configurations</th></tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _recipe(cell: Cell, address: str) -> str:
    """The recipe of the first seed, with the rows and what they note."""
    lines = "".join(
        f"<tr><th>{row.recipe.seed}</th><td>{row.outcome.accuracy:.2%}</td>"
        f"<td><code>{row.key[:16]}</code></td></tr>"
        for row in cell.rows
    )
    notes = {
        note
        for row in cell.rows
        for part in (row.outcome, row.cost, row.deployed)
        if part is not None
        for note in part.notes
    }
    listed = "".join(f"<li>{escape(note)}</li>" for note in sorted(notes))
    return (
        f'<section class="recipe" id="{address}"><h2>{escape(name_of(cell))}</h2>'
        f"<pre>{escape(to_toml(cell.recipe))}</pre>"
        f"<table><thead><tr><th>seed</th><th>accuracy</th><th>row</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>{f'<ul>{listed}</ul>' if listed else ''}</section>"
    )


def _interval(interval: Interval, signed: bool = False) -> str:
    plus = "+" if signed else ""
    mean = f"{100 * interval.mean:{plus}.2f}"
    if math.isnan(interval.low):
        return mean
    return f"{mean} ({100 * interval.low:{plus}.2f} to {100 * interval.high:{plus}.2f})"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}g}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"
