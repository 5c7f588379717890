"""A model as a target takes it: opset, IR version and precision in one call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from net import Net

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.engines.lowering import lower
from prunedeploy.graph import model as models
from prunedeploy.passes import ToFloat16
from prunedeploy.reference import verify


@pytest.fixture
def feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """``net.onnx`` at opset 20 with operators that opset 13 does not have, and inputs for it."""
    monkeypatch.chdir(tmp_path)
    net = Net(channels=3, size=8, dtype=np.float32)
    x = net.node("HardSwish", net.conv("input", (3, 8)))
    x = net.node("Gelu", net.conv(x, (8, 8)))
    axes = net.weight(np.array([2, 3]))
    x = net.node("ReduceMean", x, axes, keepdims=0)
    x = net.node("LayerNormalization", x, net.weight(np.ones(8)), net.weight(np.zeros(8)))
    model = net.model(net.linear(x, (8, 5)))
    models.save(model, Path("net.onnx"))
    return verify.random_feeds(models.specs(model)[0], batch=8)


def run(path: str | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(str(path)).run(None, feeds)[0]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_for_a_jetson_nano(precision: str, feeds: dict[str, np.ndarray]) -> None:
    result = prunedeploy.lower("net.onnx", target="jetson", precision=precision, feeds=feeds)
    assert result.model == Path(f"net.jetson-nano.{precision}.onnx")
    written = onnx.load(result.model)
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == result.opset == 13
    assert written.ir_version == result.ir_version == 7
    assert result.model_sha256 == models.sha256(result.model)
    assert result.difference.passed
    assert result.difference.max_rel < (2e-6 if precision == "float32" else 5e-3)
    found = verify.compare(
        {"y": run("net.onnx", feeds)}, {"y": run(result.model, feeds)}, result.difference.tolerance
    )
    assert found.passed


def test_int8_for_a_t4(feeds: dict[str, np.ndarray]) -> None:
    result = lower("net.onnx", "small.onnx", target="t4", precision="int8", feeds=feeds)
    assert (result.opset, result.precision) == (20, "int8")
    assert result.difference.passed
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load("small.onnx").graph.node)
    kept = lower("net.onnx", target="t4", precision="int8", feeds=feeds, budget=1e-2)
    assert kept.difference.max_rel <= 1e-2


@pytest.mark.parametrize(("weights", "most"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_rounded_weights(weights: str, most: float, feeds: dict[str, np.ndarray]) -> None:
    result = lower("net.onnx", weights=weights, feeds=feeds)  # type: ignore[arg-type]
    assert result.model == Path(f"net.host.{weights}-weights.onnx")
    assert (result.precision, result.weights) == ("float32", weights)
    assert 0 < result.difference.max_rel < most
    assert result.difference.passed
    found = verify.compare(
        {"y": run("net.onnx", feeds)}, {"y": run(result.model, feeds)}, result.difference.tolerance
    )
    assert found.passed


def test_rounded_weights_take_half_of_an_engine(tmp_path: Path) -> None:
    net = Net(channels=256, size=1, dtype=np.float32)
    models.save(
        net.model(net.linear(net.node("Flatten", "input"), (256, 512))), tmp_path / "m.onnx"
    )
    whole = prunedeploy.build(tmp_path / "m.onnx", runtime="sparse", output=tmp_path / "whole")
    lowered = lower(tmp_path / "m.onnx", tmp_path / "half.onnx", weights="float16")
    half = prunedeploy.build(lowered.model, runtime="sparse", output=tmp_path / "half")
    assert half.manifest.difference is not None
    assert half.manifest.difference.max_rel < 1e-6  # it computes what the rounded model does
    sizes = [sum(f.stat().st_size for f in x.path.rglob("*")) for x in (whole, half)]
    assert sizes[0] - sizes[1] > 0.9 * 2 * 256 * 512


def test_this_machine_takes_it_as_it_is(feeds: dict[str, np.ndarray]) -> None:
    result = lower("net.onnx")
    assert result.opset == 20
    assert result.passes == ()
    assert result.difference.max_abs == 0
    assert lower("net.onnx", "old.onnx", opset=11).opset == 11


@pytest.mark.parametrize(
    ("options", "opset"), [({}, 9), ({"opset": 17}, 17), ({"target": "jetson"}, 13)]
)
def test_an_old_model_in_a_newer_opset(
    options: dict[str, str], opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net(channels=3, size=8, dtype=np.float32, opset=9)
    x = net.node("Clip", net.conv("input", (3, 8)), min=-1.0, max=1.0)
    models.save(net.model(net.node("ReduceMean", x, axes=[2, 3], keepdims=0)), Path("old.onnx"))
    result = lower("old.onnx", "new.onnx", **options)
    assert (result.opset, onnx.load("new.onnx").opset_import[0].version) == (opset, opset)
    assert result.difference.max_abs == 0
    inputs = verify.random_feeds(models.specs(models.load(Path("old.onnx")))[0])
    assert np.array_equal(run("old.onnx", inputs), run("new.onnx", inputs))


def test_what_has_no_newer_form_is_refused_at_ones_word_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net(channels=3, size=8, dtype=np.float32, opset=9)
    models.save(net.model(net.conv("input", (3, 8))), Path("old.onnx"))

    def stuck(*_: object) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", stuck)
    with pytest.raises(UserError, match=r"cannot be written in opset 17: .* no adapter"):
        lower("old.onnx", "new.onnx", opset=17)
    assert not Path("new.onnx").exists()
    assert lower("old.onnx", "new.onnx", target="jetson").opset == 9  # which it reads, too


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": "jetson", "precision": "int8"}, "jetson-nano does not compute in int8"),
        ({"precision": "int8"}, "give calibration feeds"),
        ({"opset": 9}, "give one of 11 to 28"),
        ({"output": "net.onnx"}, "name another file"),
        ({"weights": "float16", "precision": "float16"}, "give one of the two"),
        ({"output": "net.plan"}, "ends in .onnx"),
        ({"target": "nano"}, "there is no target 'nano'"),
    ],
)
def test_mistakes(feeds: dict[str, np.ndarray], options: dict[str, str], reason: str) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(UserError) as caught:
        lower("net.onnx", **options)
    assert reason in str(caught.value)
    assert sorted(Path().iterdir()) == before


def test_a_node_without_an_older_form_is_named(feeds: dict[str, np.ndarray]) -> None:
    net = Net(channels=3, size=8, dtype=np.float32)
    grid = net.weight(np.zeros((1, 2, 2, 2)))
    net = Net(channels=3, size=8, dtype=np.float32, batch=1)
    grid = net.weight(np.zeros((1, 2, 2, 2)))
    models.save(net.model(net.node("GridSample", "input", grid)), Path("grid.onnx"))
    with pytest.raises(UserError, match="cannot be written in opset 13: GridSample_0"):
        lower("grid.onnx", target="jetson")
    assert not Path("grid.jetson-nano.float32.onnx").exists()


def test_a_pass_that_spoils_the_model_is_seen(
    feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: float16 that forgets the biases is off by more than float16 may be."""
    honest = ToFloat16.__call__

    def forgetful(self: ToFloat16, model: models.ir.Model) -> object:
        result = honest(self, model)
        for name, value in model.graph.initializers.items():
            if "bias" in name and value.const_value is not None:
                value.const_value = models.ir.tensor(value.const_value.numpy() * 0)
        return result

    monkeypatch.setattr(ToFloat16, "__call__", forgetful)
    with pytest.raises(UserError, match="1e-02 is allowed"):
        lower("net.onnx", target="jetson", precision="float16", feeds=feeds)
