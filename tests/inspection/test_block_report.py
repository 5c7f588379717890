"""The blocks of a model's layers, counted and drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from block_weights import blocks_at, filled, scattered
from net import Net
from typer.testing import CliRunner

import prunedeploy
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import UserError
from prunedeploy.inspection import block_report

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two blocks of a layer, with a few non-zeros outside of them; a dense layer before."""
    net = Net(channels=5, size=6, dtype=np.float32, batch=1)
    x = net.node("Relu", net.conv("input", (5, 12), name="stem"))
    x = net.node("Relu", net.conv(x, (12, 20), name="blocks"))
    weight = filled((20, 12, 3, 3), blocks_at(20, 108, [(8, 30), (7, 40)], 1), 1)
    free = weight.reshape(20, -1).any(1)
    net.weights["blocks.weight"][...] = np.where(
        free[:, None, None, None], weight, scattered(weight, 0.1, 1)
    )
    path = tmp_path / "model.onnx"
    net_model = net.model(x)
    from prunedeploy.graph import model as models

    models.save(net_model, path)
    onnx.checker.check_model(str(path))
    return path


def test_layers_are_counted_and_drawn(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    picture = tmp_path / "blocks.png"
    found = prunedeploy.inspect(model, blocks=picture)
    stem, blocks = found.blocks
    assert (stem.blocks, stem.share, stem.fill) == (1, 1.0, 1.0)
    assert (blocks.rows, blocks.columns, blocks.blocks) == (20, 108, 2)
    assert blocks.share == (8 * 30 + 7 * 40) / blocks.nonzeros < 1
    assert blocks.fill == 1
    assert blocks.gain is not None
    assert blocks.gain >= 1
    assert picture.read_bytes().startswith(PNG)
    done = CliRunner().invoke(app, ["inspect", str(model), "--blocks", str(picture)])
    assert done.exit_code == 0, done.output
    assert "faster with blocks" in done.output
    assert "20x108" in done.output
    assert block_report.outlook(found.blocks) in done.output


def test_the_outlook_weighs_layers_by_their_time() -> None:
    def layer(gain: float | None, cycles: float | None) -> block_report.LayerBlocks:
        return block_report.LayerBlocks("a", 8, 8, 8, 1, 1.0, 1.0, gain, cycles)

    said = block_report.outlook([layer(2.0, 100), layer(1.0, 300)])
    assert said.startswith("blocks should gain in 1 of 2 layers: all together 1.25 times")
    assert block_report.outlook([layer(1.0, 3)]) == "blocks should gain nothing in any of 1 layers"
    assert block_report.outlook([layer(None, None)]) == ""


def test_rows_and_columns_are_ordered_so_that_blocks_are_patches() -> None:
    weight = filled((9, 20), blocks_at(9, 20, [(4, 6), (5, 7)], 2), 2)
    drawn = block_report._ordered(block_report._look("layer", weight, 1, None))
    assert (drawn[:5, :7] == block_report.INSIDE).all()  # the larger block first
    assert (drawn[:5, 7:] == block_report.EMPTY).all()
    assert (drawn == block_report.INSIDE).all(2).sum() == 4 * 6 + 5 * 7


def test_without_matplotlib_it_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"prunedeploy\[plot\]"):
        prunedeploy.inspect(model, blocks=tmp_path / "blocks.png")
    assert not (tmp_path / "blocks.png").exists()
