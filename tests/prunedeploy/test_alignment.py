"""What --align auto chooses, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from typer.testing import CliRunner

from prunedeploy import alignment, pipeline, targets
from prunedeploy import model as models
from prunedeploy.cli.commands import app
from prunedeploy.errors import UserError
from prunedeploy.types import Ratio


def network(dead: int = 7, bias: float = 0.0) -> ir.Model:
    """24 channels of which ``dead`` hold zero, or a constant that meets zero padding."""
    net = Net(dtype=np.float32)
    x = net.conv("input", (5, 24), dead=list(range(dead)), dead_bias=bias, name="a")
    x = net.node("Relu", net.conv(net.node("Relu", x), (24, 8), name="b"))
    return net.model(net.conv(x, (8, 4), name="c"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fixed(monkeypatch: pytest.MonkeyPatch, ratios: list[Ratio]) -> None:
    """The host likes multiples of eight, and measures this."""
    monkeypatch.setattr(targets.machine, "LANES", {"avx512": 8, "avx2": 8, "neon": 8})
    monkeypatch.setattr(alignment, "_measured", lambda ways, _: ratios[: len(ways) - 1])


def align_note(result: pipeline.ShrinkResult) -> str:
    (report,) = (done for done in result.passes if done.name == "align-channels")
    (note,) = report.result.notes
    return note.reason


def test_a_number(folder: Path) -> None:
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align=4)
    assert result.align == 4
    assert models.load(result.model).graph.initializers["a.weight"].shape[0] == 20
    assert pipeline.shrink("net.onnx", "one.onnx").align == 1
    again = pipeline.shrink("net.shrunk.onnx", "two.onnx", align=4)
    assert not any(done.result.changed for done in again.passes)


def test_the_faster_one_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed(monkeypatch, [Ratio(1.21, 1.18, 1.25)])
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align="auto")
    assert result.align == 8
    assert align_note(result) == (
        "7 dead channels kept: rounding up to 8 is 1.21 times faster (1.18 to 1.25, measured)"
    )
    assert models.load(result.model).graph.initializers["a.weight"].shape[0] == 24


def test_a_tie_goes_to_the_smallest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed(monkeypatch, [Ratio(1.21, 0.99, 1.25)])
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align="auto")
    assert result.align == 1
    assert align_note(result) == (
        "keeping no dead channel: rounding up to 8 is 1.21 times as fast (0.99 to 1.25, measured)"
    )


def test_map_or_channel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants under padding are one more thing to choose; the map's table is the smaller here."""
    models.save(network(bias=0.5), folder / "net.onnx")
    for ratios, words in (
        ([Ratio(1.1, 1.05, 1.2)] * 3, "times faster"),
        ([Ratio(0.9, 0.8, 0.95)] * 3, "times as fast"),
    ):
        fixed(monkeypatch, ratios)
        said = align_note(pipeline.shrink("net.onnx", align="auto"))
        assert words in said
        assert "constants under zero padding as a map" in said or "in one channel" in said


def test_nothing_dead_leaves_nothing_to_measure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "_measured", None)
    models.save(network(dead=0), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align="auto")
    assert result.align == 1
    assert align_note(result) == "no dead channel whose keeping could pay"


def test_measured_for_real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "ROUNDS", 5)
    monkeypatch.setattr(targets.machine, "LANES", {"avx512": 8, "avx2": 8, "neon": 8})
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align="auto")
    assert "measured)" in align_note(result)
    assert not list(folder.glob("*.engine"))


def test_elsewhere_a_model_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_measured", None)
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align="auto", target="rtx2080ti")
    assert result.align == 1  # 17 channels cost as much as 24, and are fewer
    assert "rounding up to 8 costs 1.00 times as much (modelled, not measured)" in align_note(
        result
    )


def test_cost_counts_whole_blocks() -> None:
    net = Net(channels=8, size=4, dtype=np.float32, batch=1)
    costs = []
    for width in (8, 9, 16):
        net = Net(channels=8, size=4, dtype=np.float32, batch=1)
        model = net.model(net.conv("input", (8, width), kernel=1, pad=0))
        models.infer_shapes(model)
        costs.append(alignment.cost(model, 8))
    assert costs == pytest.approx([8 * 8 * 16, 8 * 16 * 16, 8 * 16 * 16])


def test_rows_of_the_targets() -> None:
    assert {row.name: row.multiple for row in targets.TARGETS if row.name != "host"} == {
        "x86-avx2": 8,
        "x86-avx512": 16,
        "raspberry-pi-5": 4,
        "jetson-nano": 8,
        "jetson-orin": 8,
        **dict.fromkeys(("rtx2080ti", "t4", "a100", "l4", "h100", "h200"), 8),
    }
    assert targets.by_name("host").multiple in (1, 4, 8, 16)


@pytest.mark.parametrize("align", [0, -3, "fast", 2.5])
def test_nonsense(folder: Path, align) -> None:
    models.save(network(), folder / "net.onnx")
    with pytest.raises(UserError, match="cannot be aligned"):
        pipeline.shrink("net.onnx", align=align)
    with pytest.raises(UserError, match="no target"):
        pipeline.shrink("net.onnx", align="auto", target="nowhere")


def test_command_line(folder: Path) -> None:
    models.save(network(), folder / "net.onnx")
    done = CliRunner().invoke(app, ["shrink", "net.onnx", "--align", "8"])
    assert done.exit_code == 0, done.output
    assert "kept though dead: output channels in multiples of 8 (7 in 1 place)" in done.output
    for wrong in ("0", "x", "-8"):
        assert CliRunner().invoke(app, ["shrink", "net.onnx", f"--align={wrong}"]).exit_code == 2
