"""Element types that ONNX does not know are refused with the name of what they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.core.errors import UserError
from prunedeploy.graph import preparation

UNKNOWN = 99
TENSOR = helper.make_tensor_type_proto(UNKNOWN, [1])


def network() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "first")]
    nodes.append(helper.make_node("Relu", ["h"], ["y"], "second"))
    x, h, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "h", "y")
    )
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "net", [x], [y], [weight], value_info=[h])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=UNKNOWN, dims=[1])
    model.graph.node.append(helper.make_node("Constant", [], ["k"], "two", value=tensor))


def optional(model: onnx.ModelProto) -> None:
    node = helper.make_node("Optional", [], ["o"], "none")
    node.attribute.append(helper.make_attribute("type", TENSOR))
    model.graph.node.append(node)


def inner(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_value_info("z", UNKNOWN, [1])
    body = helper.make_graph([], "body", [], [info])
    node = helper.make_node("If", ["c"], ["i"], "choice", then_branch=body, else_branch=body)
    model.graph.node.append(node)


def sequence(model: onnx.ModelProto) -> None:
    value = model.graph.value_info.add(name="s")
    value.type.CopyFrom(helper.make_sequence_type_proto(TENSOR))


def set_type(values: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        getattr(model.graph, values)[0].type.tensor_type.elem_type = UNKNOWN

    return change


def stored(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = UNKNOWN


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (set_type("input"), "input 'x'"),
        (set_type("output"), "output 'y'"),
        (set_type("value_info"), "value 'h'"),
        (stored, "tensor 'w'"),
        (constant, "the tensor of node Constant (two)"),
        (optional, "attribute type of node Optional (none)"),
        (inner, "output 'z'"),
        (sequence, "value 's'"),
    ],
)
def test_what_has_an_unknown_type_is_named(
    change: Callable[[onnx.ModelProto], None], what: str, tmp_path: Path
) -> None:
    model = network()
    preparation.from_proto(model)
    change(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError) as caught:
        preparation.from_file(path)
    reason = f"{what} has no element type that ONNX knows: {UNKNOWN}"
    assert str(caught.value) == f"{path} is not valid ONNX: {reason}"
