"""TensorRT-RTX: what it refuses; where it is installed, real builds for a GPU that is not here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy import passes, targets
from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.engines import building, opening
from prunedeploy.graph import model as models
from prunedeploy.models import by_name
from prunedeploy.runtimes.api import BuildOptions, OpenOptions
from prunedeploy.runtimes.tensorrt.rtx import TensorRTRtx
from prunedeploy.shrinking.export import to_model

TURING = targets.by_name("rtx2080ti")


@pytest.fixture
def library() -> object:
    return pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'prunedeploy[rtx]'"
    )


def test_what_it_refuses_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = TensorRTRtx().refuse
    assert "no CUDA GPU" in (refuse(targets.by_name("x86-avx2")) or "")
    assert "no kernels for 5.3" in (refuse(targets.by_name("jetson")) or "")
    assert "no kernels for 9.0" in (refuse(targets.by_name("h100")) or "")
    arm = dataclasses.replace(TURING, arch="aarch64")
    assert "for x86-64 alone" in (refuse(arm) or "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'prunedeploy[rtx]'" in (refuse(TURING) or "")


def test_without_the_library() -> None:
    try:
        import tensorrt_rtx  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingExtra, match="rtx"):
            TensorRTRtx().versions()
    else:
        assert TensorRTRtx().versions()["tensorrt_rtx"]


def shrunk(name: str, side: int, folder: Path) -> Path:
    """A third of the BatchNorm channels dead, through all passes."""
    torch.manual_seed(0)
    module = by_name(name).factory().eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                dead = len(each.weight) // 3
                each.weight[:dead], each.bias[:dead] = 0, 0
    model = to_model(module, (1, 3, side, side))
    for step in passes.DEFAULT:
        step(model)
    models.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


@pytest.mark.slow
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_shrunken_networks_build_for_turing(name: str, tmp_path: Path) -> None:
    """In float16, without a GPU; the record says so and how long it took."""
    model = shrunk(name, 224, tmp_path)
    engine = building.build(model, "rtx2080ti", "tensorrt-rtx", tmp_path / "engine")
    if not targets.gpus():
        assert engine.manifest.difference is None  # never compared, so never to be timed
    record = json.loads((engine.path / "build.json").read_text())
    print(f"\n{name}: {record['seconds']} s, {record['plan_bytes']:,} bytes")
    assert record["compute_capability"] == "7.5"
    assert record["precision"] == "float16"
    assert any("float16 costs" in note for note in record["notes"])
    halves = models.stats(model).parameters * 2
    assert record["plan_bytes"] > halves  # all weights are in it
    assert set(engine.manifest.files) == {"model.plan", "build.json"}
    if not targets.gpus():
        with pytest.raises(UserError, match="there is none here"):
            opening.open(engine).__enter__()


@pytest.mark.usefixtures("library")
def test_a_profile_for_every_batch_and_other_gpus(tmp_path: Path) -> None:
    model = to_model(nn.Sequential(nn.Flatten(), nn.Linear(27, 8)).eval(), (1, 3, 3, 3))
    models.save(model, tmp_path / "net.onnx")
    for name in ("rtx2080ti", "l4", "a100"):
        folder = tmp_path / name
        folder.mkdir()
        payload = TensorRTRtx().build(
            tmp_path / "net.onnx", targets.by_name(name), folder, BuildOptions(batches=(1, 8))
        )
        assert payload.batches == (1, 8)
        record = json.loads((folder / "build.json").read_text())
        assert (record["precision"] == "float16") == (name == "rtx2080ti")


@pytest.mark.usefixtures("library")
def test_what_it_cannot_read_in_one_line(tmp_path: Path) -> None:
    import onnx

    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[4,4] x) => (float[4,4] y) { z, i, j, k = Unique(x) y = Reshape(z, i) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    ada = targets.by_name("l4")
    with pytest.raises(UserError, match="TensorRT-RTX cannot read") as caught:
        TensorRTRtx().build(tmp_path / "net.onnx", ada, tmp_path, BuildOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("library")
def test_two_dynamic_axes_are_refused(tmp_path: Path) -> None:
    import onnx

    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,L] x) => (float[N,L] y) { y = Relu(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="dynamic in more than its batch"):
        TensorRTRtx().build(tmp_path / "net.onnx", TURING, tmp_path, BuildOptions())


@pytest.mark.gpu
@pytest.mark.usefixtures("library")
def test_it_computes_on_a_gpu(tmp_path: Path) -> None:
    here = [row for row in targets.TARGETS if row.compute_capability in targets.gpus()]
    if not here or TensorRTRtx().refuse(here[0]):
        pytest.skip(f"no GPU of TensorRT-RTX here: {targets.gpus() or 'none at all'}")
    model = shrunk("resnet20", 32, tmp_path)
    engine = building.build(model, here[0].name, "tensorrt-rtx", tmp_path / "engine")
    with TensorRTRtx().open(engine, OpenOptions()) as session:
        assert session.provider == "TensorRT-RTX"
    assert engine.manifest.difference is not None
    assert engine.manifest.difference.passed
