"""Means, intervals and corrections, against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from swept import made_row, with_method

from prunedeploy.sparsify.table import agreements, bootstrap, cells, holm, interval

stats = pytest.importorskip("scipy.stats", reason="SciPy computes the intervals")


def test_students_interval() -> None:
    values = [0.9, 0.92, 0.95]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert interval(values).low == pytest.approx(low)
    assert interval(values).high == pytest.approx(high)
    assert math.isnan(interval([0.9, 0.8]).low)


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.04: times 4, 3, 2, 1, and never less than one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_covers_the_mean() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 300, p=[0.2, 0.7, 0.1])
    drawn, p = bootstrap(values)
    error = values.std() / math.sqrt(300)
    assert drawn.mean == pytest.approx(values.mean())
    assert drawn.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert drawn.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert p == pytest.approx(2 * stats.norm.sf(abs(values.mean()) / error), abs=0.02)
    assert bootstrap(np.zeros(50))[1] == 1.0


def test_differences_are_paired_by_seed() -> None:
    dense = [made_row(x, "dense", seed) for seed, x in enumerate((0.9, 0.95, 0.8))]
    snip = [made_row(x, "snip", seed) for seed, x in enumerate((0.88, 0.92, 0.79))]
    first, second = cells([*dense, *snip])
    assert first.compared is None
    assert second.compared is not None
    assert (second.compared.how, second.compared.seeds) == ("t", 3)
    assert second.compared.difference.mean == pytest.approx(-0.02)
    expected = stats.ttest_rel([0.88, 0.92, 0.79], [0.9, 0.95, 0.8]).pvalue
    assert second.compared.p == pytest.approx(expected)


def test_equal_differences_are_compared_by_test_examples() -> None:
    dense = [made_row(x, "dense", seed) for seed, x in enumerate((0.9, 0.7, 0.8))]
    snip = [made_row(x - 0.1, "snip", seed) for seed, x in enumerate((0.9, 0.7, 0.8))]
    _, second = cells([*dense, *snip])
    assert second.compared is not None
    assert second.compared.how == "bootstrap"
    assert second.compared.difference.low < -0.1 < second.compared.difference.high


def test_two_seeds_are_compared_by_test_examples() -> None:
    rows = [made_row(0.9, "dense"), made_row(0.8, "snip"), made_row(0.9, "snap")]
    _, snip, snap = cells(rows)
    assert snip.compared is not None
    assert snap.compared is not None
    assert snip.compared.how == "bootstrap"
    assert snip.compared.holm == pytest.approx(2 * snip.compared.p)
    assert snap.compared.p == 1.0


def test_seeds_are_one_configuration_and_options_are_not() -> None:
    rows = [made_row(0.8, seed=0), made_row(0.7, seed=1)]
    shuffled = with_method(made_row(0.6), options={"shuffle": True})
    both = cells([*rows, shuffled])
    assert [len(cell.trainings) for cell in both] == [2, 1]
    assert both[0].compared is None  # there is no dense network


def test_the_fastest_runtime() -> None:
    (cell,) = cells([made_row(0.8, seed=seed, milliseconds=1.0 + seed) for seed in range(3)])
    assert cell.fastest("host", 1) == ("sparse", 2.0)
    assert cell.fastest("host", 8) is None
    assert cell.latency("host", "ort", 1) == 4.0


def test_kendalls_tau() -> None:
    (one,) = agreements({"a": [1, 2, 3, None], "b": [1, 3, 2, 4], "c": [None, None, 1, 2]})
    assert (one.first, one.second, one.count) == ("a", "b", 3)
    assert one.tau == pytest.approx(1 / 3)
