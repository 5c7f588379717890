"""The route from a file to a shrunk model and its record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
import torch
from net import Net

from prunedeploy import models, passes
from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import ShrinkResult
from prunedeploy.graph import model as onnx_models
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking import pipeline


def network(dead: tuple[int, ...] = (1, 4), dtype: type = np.float32) -> ir.Model:
    net = Net(dtype=dtype)
    x = net.conv("input", (5, 8), dead=dead, dead_bias=0.0, name="a")
    return net.model(net.conv(net.node("Relu", x), (8, 4), name="b"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_onnx_file(folder: Path) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align=1)
    assert result.model == Path("net.shrunk.onnx")
    assert result.dense == Path("net.onnx")
    assert result.after.parameters < result.before.parameters
    assert result.difference.passed
    assert sorted(p.name for p in folder.iterdir()) == [
        "net.onnx",
        "net.shrunk.json",
        "net.shrunk.onnx",
    ]
    record = (folder / "net.shrunk.json").read_text()
    assert files.from_json(ShrinkResult, record) == result
    assert files.sha256(result.model) == result.model_sha256
    assert files.sha256(result.dense) == result.dense_sha256


def test_second_shrink_finds_nothing(folder: Path) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    first = pipeline.shrink("net.onnx", "one.onnx")
    second = pipeline.shrink("one.onnx", "two.onnx")
    assert not any(report.result.changed for report in second.passes)
    assert second.after == second.before
    assert second.before.parameters == first.after.parameters


@pytest.mark.parametrize("kind", ["onnx", "graphsurgeon"])
def test_in_memory(folder: Path, kind: str) -> None:
    proto: onnx.ModelProto = ir.to_proto(network())
    model = gs.import_onnx(proto) if kind == "graphsurgeon" else proto
    result = pipeline.shrink(model, "out.onnx", align=1)
    assert result.after.parameters < result.before.parameters
    assert result.dense.is_file()


def test_checkpoint_with_masks(folder: Path) -> None:
    module = models.by_name("resnet20").factory()
    for name, child in module.named_modules():
        if name.endswith("conv1") and "." in name:
            child.weight.data[::2] = 0
    torch.save({"state_dict": module.state_dict()}, folder / "net.pt")
    said: list[str] = []
    result = pipeline.shrink("net.pt", progress=said.append)
    assert result.arch == "resnet20"
    assert (result.mean, result.std) == (
        models.by_name("resnet20").mean,
        models.by_name("resnet20").std,
    )
    # each block loses half of its inner channels: rows of conv1, columns of conv2; a fresh
    # BatchNorm shifts by nothing, so there are no biases
    widths = [(16, 16)] * 3 + [(16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    gone = sum(9 * inner // 2 * (reads + inner) for reads, inner in widths)
    assert result.before.parameters - result.after.parameters == gone
    assert sorted(p.name for p in folder.iterdir()) == [
        "net.pt",
        "net.shrunk.dense.onnx",
        "net.shrunk.json",
        "net.shrunk.onnx",
    ]
    assert any("pass shrink-channels" in line for line in said)
    image = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    expected = module.eval()(torch.from_numpy(image)).detach().numpy()
    found = Evaluator(result.model).run({"input": image})["output"]
    assert np.abs(expected - found).max() < 1e-5 * np.ptp(expected)


def test_zero_threshold_may_change_outputs_and_says_so(folder: Path) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", zero_threshold=0.2, align=1)
    assert not result.difference.passed
    assert result.after.parameters < result.before.parameters


def test_failing_pass_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    monkeypatch.setattr(
        "prunedeploy.passes.analysis.liveness.Weights.needed",
        lambda self, layer, rows: np.zeros(layer.source.shape[1], bool),
    )
    with pytest.raises(passes.PassError):
        pipeline.shrink("net.onnx")
    assert [p.name for p in folder.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("net.onnx", "is the input"),
        ("out.pt", "should end in .onnx"),
        ("nowhere/out.onnx", "is not a folder"),
    ],
)
def test_places_that_cannot_be_written(folder: Path, output: str, message: str) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    with pytest.raises(UserError, match=message):
        pipeline.shrink("net.onnx", output)


def test_weights_that_are_not_numbers(folder: Path) -> None:
    model = network()
    weight = model.graph.initializers["a.weight"]
    array = weight.const_value.numpy().copy()
    array[0, 0, 0, 0] = np.nan
    weight.const_value = ir.tensor(array, name=weight.name)
    onnx_models.save(model, folder / "net.onnx")
    with pytest.raises(UserError, match=r"a\.weight holds NaN"):
        pipeline.shrink("net.onnx")


def test_unknown_operator_is_named(folder: Path) -> None:
    net = Net(dtype=np.float32)
    onnx_models.save(net.model(net.node("Frobnicate", "input", domain="odd")), folder / "a.onnx")
    with pytest.raises(UserError, match="odd::Frobnicate"):
        pipeline.shrink("a.onnx")


def test_input_shape_fills_dynamic_sizes(folder: Path) -> None:
    net = Net(channels=5, size="side", dtype=np.float32)  # type: ignore[arg-type]
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.node("Relu", x)))
    onnx_models.save(net.model(net.linear(pooled, (8, 3))), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", input_shape=(1, 5, 19, 19), align=1)
    assert result.after.parameters < result.before.parameters


def test_model_local_functions_are_inlined(folder: Path) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20, "local" : 1]>
        net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { y = local.double(x) }
        <opset_import: ["" : 20], domain: "local"> double (a) => (b) { b = Add(a, a) }
    """
    onnx.save(onnx.parser.parse_model(text), folder / "net.onnx")
    assert pipeline.shrink("net.onnx").difference.passed


def test_outputs_that_are_never_finite_are_not_called_the_same(folder: Path) -> None:
    net = Net(dtype=np.float32)
    onnx_models.save(net.model(net.node("Log", net.conv("input", (5, 4)))), folder / "a.onnx")
    assert pipeline.shrink("a.onnx").difference.passed  # some are finite
    net = Net(dtype=np.float32)
    y = net.node("Sqrt", net.node("Sub", net.node("Neg", net.node("Abs", "input")), "one"))
    net.weight(np.array(1.0), "one")
    onnx_models.save(net.model(y), folder / "b.onnx")
    with pytest.raises(UserError, match=r"nothing can be compared.*--input-range"):
        pipeline.shrink("b.onnx")


def test_a_json_of_somebody_else_is_not_replaced(folder: Path) -> None:
    onnx_models.save(network(), folder / "net.onnx")
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json would be replaced"):
        pipeline.shrink("net.onnx", "config.onnx")
    assert (folder / "config.json").read_text() == "{}"


def test_macs_of_dynamic_sizes_are_those_of_the_shape_given(folder: Path) -> None:
    net = Net(channels=3, size="side", dtype=np.float32)
    onnx_models.save(net.model(net.conv("input", (3, 4))), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", input_shape=(1, 3, 16, 16))
    assert result.before.macs == 4 * 16 * 16 * 27
