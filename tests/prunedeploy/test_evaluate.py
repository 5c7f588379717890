"""The reference interpreter against ONNX Runtime and torch, operator by operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from net import Net
from onnx import TensorProto, helper

from prunedeploy import model as models
from prunedeploy import verify
from prunedeploy.errors import UserError
from prunedeploy.evaluate import Evaluator

POOL = {"kernel_shape": [3, 2], "strides": [2, 1]}
CASES: list[tuple[str, dict[str, object]]] = [
    ("MaxPool", POOL),
    ("MaxPool", {**POOL, "pads": [1, 0, 0, 1]}),
    ("MaxPool", {**POOL, "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    ("AveragePool", POOL),
    ("AveragePool", {**POOL, "pads": [1, 1, 1, 1]}),
    ("AveragePool", {**POOL, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {**POOL, "pads": [0, 1, 1, 0]}),
    ("AveragePool", {**POOL, "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", {}),
    ("Softmax", {"axis": 1}),
]


def both(net: Net, *outputs: str) -> verify.Difference:
    """The interpreter's outputs against ONNX Runtime's."""
    model = net.model(*outputs)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    proto = onnx_bytes(model)
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    expected = dict(zip(outputs, session.run(list(outputs), feeds), strict=True))
    return verify.compare(expected, Evaluator(model).run(feeds))


def onnx_bytes(model: models.ir.Model) -> bytes:
    return models.ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize(("operator", "attributes"), CASES)
def test_operators(operator: str, attributes: dict[str, object]) -> None:
    net = Net(channels=3, size=9, dtype=np.float32)
    assert both(net, net.node(operator, "input", **attributes)).passed


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
        {"group": 3},
    ],
)
def test_convolutions(attributes: dict[str, object]) -> None:
    net = Net(channels=6, size=9, dtype=np.float32)
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    w = net.weight(net.random.standard_normal((9, 6 // group, 3, 2)))
    b = net.weight(net.random.standard_normal(9))
    assert both(net, net.node("Conv", "input", w, b, **attributes)).passed


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"pads": [1, 0, 1, 0]},
        {"pads": [0, 1, 1, 0], "group": 2},
        {"strides": [2, 2], "output_padding": [1, 1], "group": 2},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [10, 10]},
        {"dilations": [2, 1], "group": 4},
    ],
)
def test_transposed_convolutions(attributes: dict[str, object]) -> None:
    net = Net(channels=4, size=5, dtype=np.float32)
    w = net.weight(net.random.standard_normal((4, 3, 3, 3)))
    assert both(net, net.node("ConvTranspose", "input", w, **attributes)).passed


def test_subgraph_reads_from_outside() -> None:
    net = Net(channels=3, dtype=np.float32)
    x = net.node("Relu", "input")

    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [str(x)], ["y"])], op, [], [out])

    y = net.node(
        "If", net.weight(np.array(True)), then_branch=branch("Exp"), else_branch=branch("Neg")
    )
    assert both(net, str(y)).passed


def test_float64_is_the_exact_answer() -> None:
    net = Net(channels=3, dtype=np.float32)
    model = net.model(net.conv("input", (3, 4)))
    feeds = verify.random_feeds(models.specs(model)[0])
    exact = Evaluator(model, float64=True).run(feeds)
    rounded = Evaluator(model).run(feeds)
    (name,) = exact
    assert exact[name].dtype == np.float64
    assert 0 < verify.compare(exact, rounded, 1e-5).max_rel < 1e-6


def test_unknown_operator_is_named() -> None:
    net = Net(channels=3)
    model = net.model(net.node("SparseRelu", "input", domain="odd"))
    with pytest.raises(UserError, match="odd::SparseRelu"):
        Evaluator(model)
