"""Outputs are called the same only where nothing but float32's rounding is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from net import Net

from prunedeploy.cli import main
from prunedeploy.cli.show.verdicts import difference
from prunedeploy.core.records import Difference
from prunedeploy.graph import model as models


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (Difference(0, 1e-7, 1e-5, 2), "same outputs"),
        (Difference(0, 1e-4, 1e-5, 2), "NOT the same outputs"),
        (Difference(0, 1e-7, 1e-2, 2), "within the tolerance"),
        (Difference(0, 0, 1e-5, 2, tolerances={"a": 1e-5, "b": 1e-2}), "within the tolerance"),
    ],
)
def test_words(measured: Difference, verdict: str) -> None:
    assert difference(measured).endswith(f": {verdict}")


@pytest.mark.parametrize(
    "options", [["--precision", "float16"], ["--weights", "float16"], ["--weights", "bfloat16"]]
)
def test_what_narrower_numbers_cost_is_not_called_the_same(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net(channels=32, size=1, dtype=np.float32)
    models.save(net.model(net.linear(net.node("Flatten", "input"), (32, 8))), Path("net.onnx"))
    assert main(["lower", "net.onnx", *options]) == 0
    text = capsys.readouterr().out
    assert "within the tolerance" in text
    assert "same outputs" not in text
