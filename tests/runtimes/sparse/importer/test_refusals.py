"""What is not known is refused, by name and reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowered import Small, check, ints, refusal, single
from onnx import TensorProto, helper


def test_an_unknown_operator_is_named() -> None:
    found = refusal(single("Det", (2, 3, 3)), 2)
    assert (found.operator, found.node) == ("Det", "Det_0")
    assert str(found) == "Det (Det_0): the sparse runtime does not know it"


def test_an_operator_of_another_domain_is_not_taken_for_that_of_onnx() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "odd", domain="com.example")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    found = refusal(ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10)))
    assert found.operator == "com.example::Relu"


def test_control_flow_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], "choice", then_branch=body, else_branch=body)]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "g", inputs, [output])
    imports = [helper.make_opsetid("", 20)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    assert refusal(model).operator == "If"


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16])
def test_inputs_of_other_types_are_refused(dtype: type) -> None:
    net = Small()
    y = net.node("Cast", net.input(2, 3, dtype=dtype), to=TensorProto.FLOAT)
    found = refusal(net.model(y), 2)
    assert (found.operator, found.node) == ("input", "in0")


def test_a_gemm_whose_sum_has_more_axes_is_refused() -> None:
    net = Small()
    weight, added = np.ones((3, 5), np.float32), np.ones((1, 1, 1, 5), np.float32)
    found = refusal(net.model(net.node("Gemm", net.input(2, 3), weight, added)), 2)
    assert found.reason == "its C has 4 axes, which its output lacks"


def test_half_precision_inside_is_refused() -> None:
    net = Small()
    y = net.node("Cast", net.input(2, 3), to=TensorProto.FLOAT16)
    found = refusal(net.model(net.node("Cast", y, to=TensorProto.FLOAT)), 2)
    assert (found.operator, found.reason) == ("Cast", "a cast to FLOAT16 is not known")


def test_outputs_of_other_types_are_refused() -> None:
    net = Small()
    half = net.node("Cast", net.normal(2, 3), to=TensorProto.FLOAT16)
    model = net.model(net.node("Relu", net.input(2, 3)), half)
    assert refusal(model, 2).reason == "it is float16, not float32"


def test_sizes_that_nobody_gives_are_asked_for() -> None:
    net = Small()
    model = net.model(net.node("Neg", net.input("batch", "length", 3)))
    assert refusal(model, 2).reason == "the size of length is not given"
    check(model, 2, {"length": 5})


def test_a_fixed_batch_is_kept() -> None:
    model = single("Neg", (2, 3))
    assert refusal(model, 1).reason == "its batch is fixed at 2, not 1"
    check(model, 2)


def test_statistics_of_a_batch_are_refused() -> None:
    ones = np.ones(3, np.float32)
    model = single("BatchNormalization", (2, 3, 4, 4), ones, ones, ones, ones, training_mode=1)
    assert "statistics of the batch" in refusal(model, 2).reason


def test_dropout_that_drops_is_refused() -> None:
    model = single("Dropout", (2, 3), np.float32(0.5), np.array(True))
    assert refusal(model, 2).reason == "it is set to training"


def test_an_axis_that_is_not_there_is_refused() -> None:
    found = refusal(single("Gather", (2, 3), ints(5), axis=1), 2)
    assert found.reason == "an index lies outside of axis 1"


def test_sizes_that_do_not_fit_are_refused() -> None:
    found = refusal(single("Conv", ("n", 3, 5, 5), np.ones((2, 4, 3, 3), np.float32)), 2)
    assert found.reason == "its weight [2, 4, 3, 3] does not fit 3 channels"
    net = Small()
    model = net.model(net.node("Add", net.input("n", 3), np.ones((2, 3), np.float32)))
    assert "do not fit" in refusal(model, 3).reason  # a batch of two is fixed in a constant
    check(model, 2)
    net = Small()
    transposed = net.node("Transpose", net.input("n", 2), perm=[1, 0])
    model = net.model(net.node("MatMul", transposed, net.normal(3, 4)))
    assert "[2, 2] times [3, 4]" in refusal(model, 2).reason
    check(model, 3)


def test_integers_are_not_given_in_another_type_than_the_models() -> None:
    """Large ones are kept as they come in: the port would have the input's type."""
    kinds = [("x", TensorProto.INT32), ("y", TensorProto.INT64)]
    info = [helper.make_tensor_value_info(name, kind, [1, 3]) for name, kind in kinds]
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", 20)]
    found = refusal(ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10)))
    assert (found.operator, found.node) == ("output", "y")
    assert found.reason.startswith("its integers are kept as int32")
