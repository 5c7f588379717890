"""ONNX Runtime on GPUs: what was asked for runs, or it is an error. With the real onnxruntime."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.engines import building, opening
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.api import OpenOptions
from prunedeploy.runtimes.ort import gpu as ort_gpu
from prunedeploy.runtimes.ort.gpu import CPU, CUDA, TENSORRT, OrtCuda, OrtGpuSession, OrtTensorRT
from prunedeploy.targets import machine

AZURE = "AzureExecutionProvider"  # part of every wheel; runs remote models, so no node of these


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,4] x) => (float[N,4] y) { z = Relu(x) y = Neg(z) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    return building.build(tmp_path / "net.onnx", "host", "ort", tmp_path / "engine")


@pytest.mark.parametrize("wanted", [(CUDA, CPU), (TENSORRT, CUDA, CPU)])
def test_a_provider_that_does_not_run_is_an_error(engine: Engine, wanted: tuple[str, ...]) -> None:
    if targets.gpus():
        pytest.skip("there is a GPU: see the tests marked gpu")
    with pytest.raises(UserError, match=f"{wanted[0]} was asked for and CPUExecutionProvider"):
        OrtGpuSession(engine, OpenOptions(), wanted)


def test_a_provider_that_computes_nothing_is_an_error(engine: Engine) -> None:
    if AZURE not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {AZURE}")
    with pytest.raises(UserError, match="computes no node"):
        OrtGpuSession(engine, OpenOptions(), (AZURE, CPU))


def test_the_one_that_runs_is_named(engine: Engine) -> None:
    session = OrtGpuSession(engine, OpenOptions(), (CPU,))
    assert session.provider == CPU
    feeds = {"x": np.array([[1.0, -1.0, 2.0, 0.0]], np.float32)}
    np.testing.assert_array_equal(session.run(feeds)["y"], -np.maximum(feeds["x"], 0))


@pytest.mark.parametrize("runtime", [OrtCuda(), OrtTensorRT()], ids=lambda x: x.name)
def test_what_they_refuse_and_why(runtime: OrtCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no CUDA GPU" in (runtime.refuse(targets.by_name("x86-avx2")) or "")
    monkeypatch.setattr(machine, "gpus", lambda: ())
    row = dataclasses.replace(targets.by_name("t4"), arch=platform.machine())
    assert "no CUDA GPU here" in (runtime.refuse(row) or "")
    monkeypatch.setattr(machine, "gpus", lambda: ("7.5",))
    if runtime.wanted[0] not in onnxruntime.get_available_providers():
        assert "pip install 'prunedeploy[gpu]'" in (runtime.refuse(row) or "")
    else:
        assert runtime.refuse(row) is None


def test_float32_is_float32() -> None:
    assert ort_gpu.OPTIONS[CUDA]["use_tf32"] == "0"
    assert ort_gpu.OPTIONS[TENSORRT]["trt_fp16_enable"] == "0"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_it_computes_on_a_gpu(name: str, engine: Engine, tmp_path: Path) -> None:
    host = targets.by_name("host")
    if reason := registry.refuse(host, name):
        pytest.skip(reason)
    built = building.build(tmp_path / "net.onnx", "host", name, tmp_path / "gpu.engine")
    assert built.manifest.difference is not None
    assert built.manifest.difference.passed
    with opening.open(built) as session:
        assert session.provider.startswith(CUDA if name == "ort-cuda" else TENSORRT)
