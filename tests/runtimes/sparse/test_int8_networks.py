"""Engines of quantised networks have the outputs of ONNX Runtime, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from quantised_networks import mobilenet, resnet

import prunedeploy
from prunedeploy import targets


def fused(path: Path, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime's output with every optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"in0": x})[0])


@pytest.mark.slow
@pytest.mark.skipif("avx512" not in targets.host_isa(), reason="no AVX-512: float32 is faster")
@pytest.mark.parametrize("zero", [np.uint8(0), np.int8(-128)])
@pytest.mark.parametrize("name", ["mobilenet", "resnet"])
def test_outputs_are_those_of_onnx_runtime(name: str, zero: np.generic, tmp_path: Path) -> None:
    if name == "mobilenet":
        model = mobilenet(zero, (32, 64, 128, 128, 256), (1, 2, 1, 2), 48)
    else:
        model = resnet(zero, (16, 32), (2, 2), 48)
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    prunedeploy.build(path, output=tmp_path / "engine", runtime="sparse", tune="none")
    random = np.random.default_rng(0)
    with prunedeploy.open(tmp_path / "engine") as session:
        for _ in range(3):
            x = (random.standard_normal((1, 3, 48, 48)) * 2).astype(np.float32)
            (found,) = session.run({"in0": x}).values()
            expected = fused(path, x)
            assert len(np.unique(expected)) > 5
            if name == "resnet" and zero.dtype == np.int8:  # fused in part, in float32 else
                assert np.abs(found - expected).max() < 0.031
            else:
                np.testing.assert_array_equal(found, expected)
