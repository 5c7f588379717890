"""Functions of single elements, and their recognition, against ONNX Runtime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import Small, check, refusal, single, steps

from prunedeploy.runtimes.sparse.plan.steps import Map

SHAPE = (2, 3, 5)
PLAIN = (
    *("Neg", "Abs", "Relu", "Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Erf", "Elu"),
    *("Softplus", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Softsign", "LeakyRelu", "Selu"),
    *("Mish", "HardSwish", "Celu", "Gelu"),
)
UNARY: dict[str, dict[str, Any]] = {
    **{op: {} for op in PLAIN},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "ThresholdedRelu": {"alpha": 0.5},
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    plan = check(single(op, SHAPE, **UNARY[op]), 2)
    assert steps(plan) == {"Map": 1}


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {"alpha": 0.5}),
        ("Celu", {"alpha": 2.0}),
        ("Selu", {"alpha": 1.5, "gamma": 2.0}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {}),
    ],
)
def test_unary_with_numbers(op: str, attributes: dict[str, Any]) -> None:
    check(single(op, SHAPE, **attributes), 2)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"])
@pytest.mark.parametrize(
    "other", [(2, 3, 5), (3, 1), (1,), np.float32([0.3, -2, 1, 3, 0.7]), np.float32(2.5)]
)
def test_binary(op: str, other: tuple[int, ...] | np.ndarray) -> None:
    check(single(op, SHAPE, other if isinstance(other, tuple) else np.asarray(other)), 2)
    if op != "PRelu":
        check(single(op, np.asarray(other) if not isinstance(other, tuple) else other, SHAPE), 2)


@pytest.mark.parametrize("op", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_variadic(op: str, count: int) -> None:
    check(single(op, *[SHAPE, (3, 1), (5,), SHAPE][:count]), 2)


@pytest.mark.parametrize("op", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
def test_comparisons(op: str) -> None:
    net = Small()
    truth = net.node(op, net.node("Round", net.input(*SHAPE)), net.node("Round", net.input(3, 1)))
    check(net.model(net.node("Where", truth, net.input(1), np.float32([2.0]))), 2)
    check(net.model(net.node("Cast", truth, to=onnx.TensorProto.FLOAT)), 2)


def test_logic() -> None:
    net = Small()
    a, b = (net.node("Greater", net.input(*SHAPE), np.float32(0.0)) for _ in range(2))
    both = net.node("And", a, net.node("Not", net.node("Or", a, b)))
    either = net.node("Or", both, net.node("And", a, b))
    check(net.model(net.node("Cast", either, to=onnx.TensorProto.FLOAT)), 2)


def test_not_a_number_and_infinity_go_through() -> None:
    x = np.float32([[np.nan, np.inf, -np.inf, -0.0, 1e38]])
    for op in ("Relu", "Sigmoid", "Exp", "Max", "Where", "LeakyRelu", "HardSwish"):
        net = Small()
        name = net.input(1, 5)
        more = {"Max": [np.float32(0.5)], "Where": [np.float32(1), name]}.get(op, [])
        first = net.node("Less", name, np.float32(0)) if op == "Where" else name
        check(net.model(net.node(op, first, *more)), feeds={"in0": x})


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 6.0), (None, 1.0), (-0.5, None), (None, None), (1.0, -1.0)],
)
def test_clip(low: float | None, high: float | None) -> None:
    bounds = [None if bound is None else np.float32(bound) for bound in (low, high)]
    check(single("Clip", SHAPE, *bounds), 2)


def test_clip_of_older_versions_and_of_computed_bounds() -> None:
    check(single("Clip", SHAPE, opset=10, min=-0.3, max=0.4), 2)
    net = Small()
    low = net.node("ReduceMin", net.input(3), keepdims=0)
    check(net.model(net.node("Clip", net.input(3, 4), low, None)), 3)


def test_truth_values_and_integers_are_carried() -> None:
    for dtype in (np.bool_, np.int64, np.int32):
        net = Small()
        mask = net.input(2, 6, dtype=dtype)
        wide = net.node("Unsqueeze", mask, np.array([1, 2]))
        floats = net.node("Cast", wide, to=onnx.TensorProto.FLOAT)
        gone = net.node("Mul", net.node("Sub", np.float32(1), floats), np.float32(-1e4))
        scores = net.node("Add", net.input(2, 3, 4, 6), gone)
        feeds = {
            "in0": np.array([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1]]).astype(dtype),
            "in1": Small().normal(2, 3, 4, 6),
        }
        plan = check(net.model(net.node("Softmax", scores)), 2, feeds=feeds)
        # what is computed once a mask is not computed once a score
        assert steps(plan) == {"Copy": 1, "Map": 2, "Softmax": 1}


def test_identifiers_are_compared_with_a_number() -> None:
    net = Small()
    ids = net.input(2, 4, dtype=np.int64)
    padding = net.node("Equal", ids, np.array(3))
    y = net.node("Where", padding, np.float32(-1e9), np.float32(0))
    feeds = {"in0": np.array([[1, 3, 2**24 + 1, 3], [-3, 0, 3, 2**40]])}
    feeds["in1"] = Small().normal(2, 4)
    check(net.model(net.node("Add", net.input(2, 4), y)), 2, feeds=feeds)


def test_integers_that_float32_would_round_are_refused() -> None:
    net = Small()
    ids = net.input(2, 4, dtype=np.int64)
    same = net.node("Equal", ids, np.array(2**24 + 1))
    found = refusal(net.model(net.node("Cast", same, to=onnx.TensorProto.FLOAT)), 2)
    assert found.operator == "Equal"
    net = Small()
    sum_ = net.node("Add", net.input(2, 4, dtype=np.int64), np.array(1))
    found = refusal(net.model(net.node("Cast", sum_, to=onnx.TensorProto.FLOAT)), 2)
    reason = "input 0 has integers that float32 may round"
    assert (found.operator, found.reason) == ("Add", reason)


# -- functions written out -------------------------------------------------------------------------


def f32(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def gelu(net: Small, x: str, form: int) -> str:
    curve = net.node("Erf", net.node("Div", x, f32(math.sqrt(2))))
    if form == 1:
        curve = net.node("Erf", net.node("Mul", x, f32(math.sqrt(0.5))))
    gate = net.node("Add", curve, f32(1))
    if form == 0:
        return net.node("Mul", net.node("Mul", x, gate), f32(0.5))
    if form == 1:
        return net.node("Mul", net.node("Mul", f32(0.5), x), gate)
    return net.node("Mul", x, net.node("Mul", gate, f32(0.5)))


def gelu_tanh(net: Small, x: str, form: int) -> str:
    cube = net.node("Pow", x, f32(3)) if form else net.node("Mul", net.node("Mul", x, x), x)
    inner = net.node("Add", x, net.node("Mul", cube, f32(0.044715)))
    if form == 2:
        square = net.node("Mul", net.node("Mul", x, x), f32(0.044715))
        inner = net.node("Mul", x, net.node("Add", square, f32(1)))
    curve = net.node("Tanh", net.node("Mul", inner, f32(math.sqrt(2 / math.pi))))
    return net.node("Mul", net.node("Mul", x, f32(0.5)), net.node("Add", curve, f32(1)))


def hardswish(net: Small, x: str, form: int) -> str:
    if form == 2:
        return net.node("Mul", x, net.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    gate = net.node("Clip", net.node("Add", x, f32(3)), f32(0), f32(6))
    if form == 1:
        return net.node("Mul", x, net.node("Div", gate, f32(6)))
    return net.node("Div", net.node("Mul", x, gate), f32(6))


def silu(net: Small, x: str, form: int) -> str:
    gate = net.node("Sigmoid", x)
    return net.node("Mul", x, gate) if form else net.node("Mul", gate, x)


def mish(net: Small, x: str, form: int) -> str:
    gate = net.node("Tanh", net.node("Softplus", x))
    return net.node("Mul", x, gate) if form else net.node("Mul", gate, x)


WRITTEN_OUT = {f.__name__: f for f in (gelu, gelu_tanh, hardswish, silu, mish)}


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_known_functions_are_recognised_behind_a_layer(name: str, form: int) -> None:
    net = Small()
    x = net.conv(net.input(1, 3, 5, 5), 3, 4)
    plan = check(net.model(net.node("Flatten", WRITTEN_OUT[name](net, x, form))))
    (conv,) = [step for step in plan.steps if type(step).__name__ == "Conv"]
    assert conv.activation.op == name
    assert "Map" not in steps(plan)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_only_looks_like_a_known_function_is_computed_as_it_is(name: str) -> None:
    """Broken twins: the same graph with another number or another operand."""
    numbers = {"gelu": 0.5, "gelu_tanh": 0.044715, "hardswish": 3.0}
    net = Small()
    x = net.conv(net.input(1, 3, 5, 5), 3, 4)
    y = WRITTEN_OUT[name](net, x, 1)
    if name in numbers:
        for constant in net.constants:
            array = onnx.numpy_helper.to_array(constant)
            if array.size == 1 and np.isclose(array, numbers[name]):
                constant.CopyFrom(onnx.numpy_helper.from_array(array * f32(1.25), constant.name))
    else:
        (product,) = [node for node in net.nodes if node.op_type == "Mul"]
        product.input[list(product.input).index(x)] = net.node("Neg", x)
        net.nodes.sort(key=lambda node: node is product)
    plan = check(net.model(y))
    assert steps(plan)["Map"] >= 1


def test_a_chain_is_one_map() -> None:
    net = Small()
    x, z = net.input(2, 3, 4), net.input(2, 3, 4)
    y = net.node("Tanh", net.node("Add", net.node("Mul", x, z), f32(0.3)))
    y = net.node("Sub", net.node("Exp", y), net.node("Sqrt", net.node("Abs", z)))
    plan = check(net.model(y), 2)
    (step,) = plan.steps
    assert isinstance(step, Map)
    assert len(step.inputs) == 2


def test_what_others_read_is_computed_once() -> None:
    net = Small()
    x = net.node("Exp", net.input(2, 3, 4))
    plan = check(net.model(net.node("Tanh", x), net.node("Sqrt", x), x), 2)
    assert steps(plan) == {"Map": 3}
