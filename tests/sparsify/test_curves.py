"""Epochs as CSV and as curves."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from prunedeploy.sparsify.curves import write_csv, write_png
from prunedeploy.sparsify.recorded import Epoch

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


@pytest.mark.parametrize("detection", [(), (1.0, 0.5, 0.01)])
def test_curves_are_a_picture(detection: tuple[float, ...], tmp_path: Path) -> None:
    drawn = write_png(tmp_path / "curves.png", EPOCHS, "a title", detection)
    if importlib.util.find_spec("matplotlib") is None:
        assert not drawn
        pytest.skip("needs matplotlib")
    assert drawn
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
