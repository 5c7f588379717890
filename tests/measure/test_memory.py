from __future__ import annotations

import numpy as np
import onnx
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.measure.memory import peak_bytes


def test_the_weights_of_an_engine_show(folder, shrunk):
    """64 MB of weights must appear, the interpreter and the libraries must not."""
    graph = onnx.parser.parse_graph(
        "big (float[batch, 4096] x) => (float[batch, 4096] y) { y = MatMul(x, w) }"
    )
    weights = np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), "big.onnx")
    small = peak_bytes(building.build("out.onnx", output="small", runtime="ort"), 1, 1)
    big = peak_bytes(building.build("big.onnx", output="big", runtime="ort"), 1, 1)
    assert 0 < small < 40e6
    assert small + 64e6 < big < small + 64e6 * 4


def test_an_engine_that_breaks_the_process_is_named(folder, shrunk):
    engine = building.build("out.onnx", output="e", runtime="ort")
    (folder / "e" / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"e failed in a process of its own \(status 1\).*missing"):
        peak_bytes(engine, 1, 1)
