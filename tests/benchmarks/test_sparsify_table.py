"""The tables of sweeps and studies, of rows by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from swept import made_row, with_method

from prunedeploy.sparsify.row import DENSE, Cost, Deployed, Latency, Row
from prunedeploy.sparsify.table import cells

pytest.importorskip("scipy", reason="SciPy computes the intervals")
FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("sparsify_table", monkeypatch)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("sparsify_study", monkeypatch)


def deployed(row: Row, kind: str = "measured", dense: float = 8.0, **times: float) -> Row:
    """The row with the milliseconds of runtimes at batch 1, and twice as many at batch 8."""
    both = [*times.items(), (DENSE, dense)]
    latencies = tuple(
        Latency(runtime, batch, 1, time * (1 if batch == 1 else 2), kind)  # type: ignore[arg-type]
        for runtime, time in both
        for batch in (1, 8)
    )
    return replace(row, deployed=Deployed("host", 100, 10, 1000, latencies))


def lines(text: str, begin: str) -> list[list[str]]:
    """The cells of the lines whose first cell begins so."""
    rows = [[x.strip() for x in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0].startswith(begin)]


def three(name: str, accuracy: float, sparsity: float = 0.9) -> list[Row]:
    return [
        made_row(accuracy + shift, name, seed, sparsity=sparsity)
        for seed, shift in enumerate((0.0, 0.01, 0.03))
    ]


def test_energy_and_latencies_stand_where_they_were_measured(tables: ModuleType) -> None:
    dense, snip, random = made_row(0.9, "dense"), made_row(0.8), made_row(0.7, "random_u")
    snip = replace(snip, cost=Cost(2.0, 10**6, energy_kwh=0.0015))
    text = tables.text_of([dense, deployed(snip, ort=2.0, sparse=1.25), random])
    ((*_, wh, ort, sparse),) = lines(text, "snip")
    assert (wh, ort, sparse) == ("1.5", "2 / 4", "1.25 / 2.5")
    ((*_, wh, ort, sparse),) = lines(text, "random_u")
    assert [wh, ort, sparse] == ["not measured"] * 3
    head = text.splitlines()[0]
    assert "host, sparse runtime, batch 1 / 8, ms measured" in head


def test_a_prediction_is_called_one(tables: ModuleType) -> None:
    text = tables.text_of([made_row(0.9, "dense"), deployed(made_row(0.8), "predicted", ort=2.0)])
    assert "ms predicted" in text
    assert "ms measured" not in text


def test_sparsities_side_by_side(tables: ModuleType) -> None:
    rows = [*three("dense", 0.9), *three("snip", 0.8, 0.95), *three("snip", 0.6, 0.98)]
    text = tables.side_by_side(cells([*rows, *three("random_u", 0.5, 0.98)]))
    assert lines(text, "to dense") == [["to dense, points", "95% of weights", "98% of weights"]]
    ((_, first, second),) = lines(text, "snip")
    assert (first[:5], second[:5]) == ("-10.0", "-30.0")
    ((_, first, second),) = lines(text, "random_u")
    assert (first, second[:5]) == ("", "-40.0")


def test_a_mask_shuffled_is_paired_by_seed(tables: ModuleType) -> None:
    own = three("snip", 0.8)
    others = [
        with_method(made_row(accuracy, seed=seed), options={"shuffle": True})
        for seed, accuracy in enumerate((0.7, 0.72, 0.74))
    ]
    text = tables.shuffled(cells([*own, *others]))
    ((name, seeds, points, p),) = lines(text, "snip")
    assert (name, seeds) == ("snip, 90 %", "3")
    assert points.startswith("+9.3 (")  # 10, 9 and 9 points
    assert float(p) < 0.01
    assert tables.shuffled(cells(own)) == ""


def test_thresholds_that_miss_are_seen(tables: ModuleType) -> None:
    rows = [made_row(0.9, "str", seed, sparsity=0.95) for seed in (0, 1)]
    off = replace(rows[1], outcome=replace(rows[1].outcome, unit_sparsity=0.9471))
    ((_, _, asked, reached, most),) = lines(tables.missed([rows[0], off]), "str")
    assert (asked, reached, most) == ("95.0%", "94.71 to 95.00", "0.29")


def test_orders(tables: ModuleType) -> None:
    rows = [made_row(0.5, sparsity=x, milliseconds=1 - x) for x in (0.5, 0.8, 0.9)]
    found = lines(tables.kendall(cells(rows)), "sparsity and MACs")
    assert [row[1] for row in found] == ["1.00"]


def test_accuracy_at_a_latency(study: ModuleType) -> None:
    points = [(1.0, 60.0), (4.0, 80.0)]
    assert study.at_latency(points, 2.0) == pytest.approx(70.0)  # half way in the logarithm
    assert study.at_latency(points, 1.0) == 60.0
    assert study.at_latency(points, 9.0) == 80.0
    assert study.at_latency(points, 0.9) is None
    assert study.at_latency([], 1.0) is None


def ticket(name: str, accuracy: float, time: float, sparsity: float, **options: object) -> Row:
    row = with_method(made_row(accuracy, "snip", sparsity=sparsity), name=name, options=options)
    return deployed(row, "predicted", sparse=time)


def test_forms_at_equal_latency(study: ModuleType) -> None:
    rows = [
        deployed(made_row(0.9, "dense"), "predicted", ort=8.0),
        ticket("ticket", 0.8, 8.0, 0.8, source="omp", form="scattered"),
        ticket("ticket", 0.6, 2.0, 0.95, source="omp", form="scattered"),
        ticket("refill", 0.5, 3.0, 0.8, source="omp"),
        ticket("regroup", 0.4, 6.0, 0.8, source="snip"),
    ]
    text = "\n\n".join(study.at_equal_latency(cells(rows)))
    at_two = text.split("\n\n")[1]
    assert lines(at_two, "host") == [["host, batch 1, 2x", *study.FORMS]]
    assert lines(at_two, "omp") == [["omp", "70.0", "–", "50.0", "–", "–"]]  # 4 of 8 ms
    assert lines(at_two, "snip") == [["snip", *["–"] * 5]]


def test_the_rule_for_t2(study: ModuleType) -> None:
    rows = [deployed(made_row(0.9, "dense"), "predicted", ort=8.0)]
    for t2, accuracy, time in ((2, 0.8, 6.0), (4, 0.6, 4.0), (8, 0.7, 3.0)):
        rows.append(ticket("regroup", accuracy, time, 0.8, source="omp", t2=t2))
    found = lines(study.smallest_t2(cells(rows)), "host, 1, 2x")
    assert found == [["host, 1, 2x", "80%, source omp", "4", "60.0", "8", "70.0"]]


def test_one_factor_at_a_time(study: ModuleType) -> None:
    def gradual(accuracy: float, **options: object) -> Row:
        row = made_row(accuracy, "snip", sparsity=0.5)
        return with_method(row, name="gradual", options={"units": "channels", **options})

    rows = [gradual(0.8), gradual(0.7, budget="erk"), gradual(0.6, score="snip")]
    score, budget, schedule = study.factors(cells([made_row(0.9, "dense"), *rows]))
    assert [row[0] for row in lines(score, "")][2:] == ["magnitude", "snip"]
    assert [row[0] for row in lines(budget, "")][2:] == ["global", "erk"]
    assert [row[0] for row in lines(schedule, "")][2:] == ["cubic"]
