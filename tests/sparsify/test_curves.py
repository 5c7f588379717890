"""Epochs as CSV and as curves."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from prunedeploy.sparsify.curves import draw_detection, write_csv, write_png
from prunedeploy.sparsify.recorded import Epoch
from prunedeploy.sparsify.run import Detection

EPOCHS = [
    *(Epoch(0, step, 2.0 / step, None if step == 3 else 0.1 * step, 0.0) for step in (1, 2, 3)),
    *(Epoch(1, step, 1.0 / step, 0.2 * step, 0.5) for step in (2, 3)),
]


def test_a_line_an_epoch(tmp_path: Path) -> None:
    write_csv(tmp_path / "epochs.csv", EPOCHS)
    with (tmp_path / "epochs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["1", "2", "3", "2", "3"]
    assert lines[2] == {
        "call": "0",
        "step": "3",
        "loss": str(2 / 3),
        "accuracy": "",
        "sparsity": "0.0",
    }


FOUND = Detection("change in an epoch", (1.0, 0.5, 0.01), 0.05)


@pytest.mark.parametrize("detection", [None, FOUND], ids=["none", "found"])
def test_curves_are_a_picture(detection: Detection | None, tmp_path: Path) -> None:
    drawn = write_png(tmp_path / "curves.png", EPOCHS, "a title", detection)
    if importlib.util.find_spec("matplotlib") is None:
        assert not drawn
        pytest.skip("needs matplotlib")
    assert drawn
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_time_of_pruning_is_drawn_where_the_values_end() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="needs matplotlib")
    panels = figures.Figure().subplots(4, 1)
    draw_detection(panels, replace(FOUND, epochs=0.5))
    values, limit, time = panels[-1].get_lines()
    assert list(values.get_xdata()) == [0.5, 1.0, 1.5]
    assert list(values.get_ydata()) == [1.0, 0.5, 0.01]
    assert set(limit.get_ydata()) == {0.05}
    assert set(time.get_xdata()) == {1.5}
    assert [set(panel.get_lines()[-1].get_xdata()) for panel in panels] == [{1.5}] * 4
