"""A network that was pruned too far is never a success without a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from net import Net

from prunedeploy.cli import main
from prunedeploy.core import files
from prunedeploy.core.records import ShrinkResult
from prunedeploy.graph import model as models
from prunedeploy.reports.headline import unvarying
from prunedeploy.reports.report import report


def write(path: Path, dead: range) -> Path:
    """Two outputs: behind a layer with rows ``dead`` at zero, and without a path to the input."""
    net = Net(channels=3, size=8, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (3, 8)))
    x = net.node("Relu", net.conv(x, (8, 8), dead=dead))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    anchors = net.node("Identity", net.weight(np.float32([1, 2])))
    models.save(net.model(net.linear(x, (8, 5)), anchors), path)
    return path


@pytest.mark.parametrize("align", ["1", "auto"])
def test_shrink_warns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    align: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("over.onnx"), range(8))
    assert main(["shrink", "over.onnx", "-o", "small.onnx", "--align", align]) == 0
    text = capsys.readouterr().out
    result = files.from_json(ShrinkResult, Path("small.json").read_text())
    (name,) = result.unvarying  # not the anchors, which never depended on the input
    warning = f"output {name} is the same for every input"
    assert f"WARNING: {warning}" in text
    assert max(map(len, text[text.index("WARNING") :].splitlines()[:2])) <= 80
    assert f"**Warning:** {warning}" in report([result])


def test_shrink_does_not_warn_of_a_network_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("fine.onnx"), range(7))
    assert main(["shrink", "fine.onnx", "-o", "small.onnx", "--align", "1"]) == 0
    assert "WARNING" not in capsys.readouterr().out
    result = files.from_json(ShrinkResult, Path("small.json").read_text())
    assert result.unvarying == ()
    assert "Warning" not in report([result])


@pytest.mark.slow  # a device bundle is built
def test_optimize_ends_with_the_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("over.onnx"), range(8))
    assert main(["optimize", "over.onnx", "--target", "jetson", "-o", "out"]) == 0
    end = " ".join(capsys.readouterr().out.split()).rpartition("jetson.")[2]
    assert "WARNING: output" in end
    assert "the same for every input" in (Path("out") / "report.html").read_text()


def test_several_outputs() -> None:
    assert unvarying(()) == ""
    assert unvarying(["a", "b"]).startswith("outputs a, b are the same for every input")
