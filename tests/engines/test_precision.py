"""Engines in less than float32: compared with the tolerance of their precision, and timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.graph import model as models
from prunedeploy.measure.bench import bench
from prunedeploy.passes import Quantise, ToFloat16
from prunedeploy.reference import verify


@pytest.fixture
def dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    monkeypatch.chdir(tmp_path)
    net = Net(channels=3, size=8, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (3, 8)))
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, (8, 8))))
    model = net.model(net.linear(x, (8, 5)))
    models.save(model, Path("dense.onnx"))
    return model


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_converted_model_is_built_and_timed(precision: str, dense: ir.Model) -> None:
    feeds = verify.random_feeds(models.specs(dense)[0], batch=8)
    step = ToFloat16(feeds) if precision == "float16" else Quantise(feeds)
    assert step(dense).changed
    models.save(dense, Path("small.onnx"))
    engine = building.build("small.onnx", runtime="ort", baseline="dense.onnx")
    found = engine.manifest.difference
    assert found is not None
    assert found.tolerance == verify.tolerance_of(precision)
    result = bench([engine.path], rounds=12, warmup=1)
    assert result.candidates[0].difference.tolerance == found.tolerance
    assert 1e-5 < result.candidates[0].difference.max_rel < found.tolerance


def test_a_model_in_float32_may_not_be_off_by_so_much(dense: ir.Model) -> None:
    """What its weights are rounded to does not matter: what it computes in does."""
    for value in dense.graph.initializers.values():
        rounded = value.const_value.numpy().astype(np.float16).astype(np.float32)
        value.const_value = ir.tensor(rounded, name=value.name)
    models.save(dense, Path("rounded.onnx"))
    engine = building.build("dense.onnx", runtime="ort")
    with pytest.raises(UserError, match="1e-05 is allowed"):
        bench([engine.path], baseline="rounded.onnx", rounds=1, warmup=0)
