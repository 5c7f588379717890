"""The interpreter's recurrent operators beside ONNX Runtime's."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from prunedeploy.core.errors import UserError
from prunedeploy.reference.evaluate import Evaluator

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
TIME, BATCH, CHANNELS, UNITS = 5, 3, 4, 6


def model(operator: str, direction: str, full: bool, **options: object) -> onnx.ModelProto:
    """With lengths, states, peepholes and a clip where ``full``."""
    random, gates = np.random.default_rng(0), GATES[operator]
    count = 2 if direction == "bidirectional" else 1
    shapes = {
        "w": (count, gates * UNITS, CHANNELS),
        "r": (count, gates * UNITS, UNITS),
        "b": (count, 2 * gates * UNITS),
        "h": (count, BATCH, UNITS),
        "c": (count, BATCH, UNITS),
        "p": (count, 3 * UNITS),
    }
    arrays = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    arrays["s"] = np.array([5, 2, 3], np.int32)
    inputs = ["x", "w", "r", "b"] if full else ["x", "w", "r"]
    if full:
        inputs += ["s", "h", "c", "p"] if operator == "LSTM" else ["s", "h"]
        options["clip"] = 0.7
    outputs = ["y", "yh", "yc"][: 3 if operator == "LSTM" else 2]
    node = helper.make_node(
        operator, inputs, outputs, hidden_size=UNITS, direction=direction, **options
    )
    graph = helper.make_graph(
        [node],
        "cell",
        [helper.make_tensor_value_info("x", 1, [TIME, BATCH, CHANNELS])],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(a, k) for k, a in arrays.items() if k in inputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


CASES = list(itertools.product(GATES, ("forward", "reverse", "bidirectional"), (False, True)))


@pytest.mark.parametrize(("operator", "direction", "full"), CASES)
def test_as_onnx_runtime_does(operator: str, direction: str, full: bool) -> None:
    options = {"linear_before_reset": int(full)} if operator == "GRU" else {}
    proto = model(operator, direction, full, **options)
    x = np.random.default_rng(1).standard_normal((TIME, BATCH, CHANNELS)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    found = Evaluator(ir.from_proto(proto)).run({"x": x})
    for name, expected in zip(found, session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=2e-6)


@pytest.mark.parametrize("operator", GATES)
def test_batch_in_front(operator: str) -> None:
    x = np.random.default_rng(1).standard_normal((TIME, BATCH, CHANNELS)).astype(np.float32)
    plain = Evaluator(ir.from_proto(model(operator, "bidirectional", False))).run({"x": x})
    proto = model(operator, "bidirectional", False, layout=1)
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    found = Evaluator(ir.from_proto(proto)).run({"x": x.swapaxes(0, 1)})
    np.testing.assert_array_equal(found["y"], plain["y"].transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(found["yh"], plain["yh"].swapaxes(0, 1))


def test_unknown_activations_are_named() -> None:
    proto = model("RNN", "forward", False, activations=["Gelu"])
    x = np.zeros((TIME, BATCH, CHANNELS), np.float32)
    with pytest.raises(UserError, match="gelu"):
        Evaluator(ir.from_proto(proto)).run({"x": x})
