"""The Pareto front by hand, and the page that shows it."""

from __future__ import annotations

import re

import pytest
from swept import made_row

from prunedeploy.sparsify.table import cells
from prunedeploy.sweep.pareto import machines, points
from prunedeploy.sweep.report import orders, page

pytest.importorskip("scipy", reason="SciPy computes the intervals")
ROWS = [
    made_row(0.95, "dense", milliseconds=4.0),
    made_row(0.90, "snip", milliseconds=1.0),
    made_row(0.85, "snap", milliseconds=2.0),  # slower and worse than snip
    made_row(0.93, "crop_u", milliseconds=3.0),
    made_row(0.99, "omp"),  # not deployed
]


def test_the_front_by_hand() -> None:
    front = {point.cell.recipe.method.name: point.front for point in points(cells(ROWS), "host", 1)}
    assert front == {"snip": True, "snap": False, "crop_u": True, "dense": True}
    assert machines(cells(ROWS)) == (("host", 1),)


def test_equal_points_are_on_it_once() -> None:
    rows = [made_row(0.9, "snip", milliseconds=1.0), made_row(0.9, "snap", milliseconds=1.0)]
    assert sorted(point.front for point in points(cells(rows), "host", 1)) == [False, True]


def test_the_page_leads_from_each_point_to_its_recipe() -> None:
    text = page(ROWS)
    links = re.findall(r'href="#(recipe-\d+)"', text)
    sections = re.findall(r'<section class="recipe" id="(recipe-\d+)">', text)
    assert len(sections) == len(set(sections)) == 5
    assert set(links) == set(sections)
    assert text.count("<circle") == 4
    assert "name = &quot;crop_u&quot;" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_orders_of_sizes_and_latencies() -> None:
    taus = {(each.first, each.second): each.tau for each in orders(cells(ROWS))}
    assert taus["MACs", "latency on host, batch 1"] == pytest.approx(1.0)
