"""Kernels of pools, reductions, elementwise steps and copies in the PTX machine."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_layers import TARGET, check, emitted, feeds_of, kinds, lowered
from lowered import Small, ints
from onnx import helper
from ptx.kernels import run_kernels

from prunedeploy.runtimes.sparse.gpu.emit import emit_module
from prunedeploy.runtimes.sparse.importer.importer import RefusedError


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("op", "how"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 3]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        (
            "AveragePool",
            {
                "kernel_shape": [3, 3],
                "strides": [2, 2],
                "pads": [1, 1, 1, 1],
                "ceil_mode": 1,
                "count_include_pad": 1,
            },
        ),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
    ],
)
def test_pools(op: str, how: dict[str, object], batch: int) -> None:
    net = Small()
    check(lowered(net, batch, net.node(op, net.input("n", 5, 9, 12), **how)))


@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 3), (1, 2, 3)])
@pytest.mark.parametrize(
    "op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"]
)
def test_reductions(op: str, axes: tuple[int, ...]) -> None:
    net = Small()
    y = net.node(op, net.input(3, 6, 5, 7), ints(*axes), keepdims=1)
    assert "reduce" in kinds(check(lowered(net, 3, y)))


UNARY = (
    *("Relu", "LeakyRelu", "Abs", "Neg", "Exp", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Reciprocal", "Tanh", "Erf", "Gelu", "Elu", "Softplus", "Mish", "Floor", "Ceil", "Round"),
    *("Sign", "Sqrt", "Log"),
)


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_element(op: str) -> None:
    net = Small()
    x = net.input("n", 3, 5, 7)
    check(lowered(net, 2, net.node(op, net.node("Abs", x) if op in ("Sqrt", "Log") else x)))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 1, 1), (1, 1, 5, 7), (7,)])
def test_functions_of_two_elements(op: str, shape: tuple[int, ...]) -> None:
    net = Small()
    check(lowered(net, 2, net.node(op, net.input(2, 3, 5, 7), net.input(*shape))))


def test_a_constant_is_an_operand() -> None:
    net = Small()
    x = net.input("n", 3, 5, 7)
    check(lowered(net, 2, net.node("Mul", net.node("Exp", x), net.normal(3, 1, 7))))


def test_a_sum_of_two_branches() -> None:
    net = Small()
    x = net.input("n", 4, 6, 5)
    y = net.node("Add", net.node("Abs", x), net.node("MaxPool", x, kernel_shape=[1, 1]))
    check(lowered(net, 2, net.node("Clip", y, np.float32(0), np.float32(1))))


def test_nan_goes_through_functions() -> None:
    net = Small()
    a, b = net.input(6), net.input(6)
    outputs = [net.node(op, a, b) for op in ("Max", "Min", "Add")]
    outputs += [net.node(op, a) for op in ("Relu", "Exp", "Sigmoid", "LeakyRelu")]
    plan = lowered(net, 6, *outputs)
    feeds = feeds_of(plan)
    first, second = feeds.values()
    first[:] = np.nan, 1, np.nan, np.inf, -np.inf, 2
    second[:] = 1, np.nan, np.nan, 1, 1, 1
    found = list(run_kernels(plan, *emitted(plan), feeds).values())
    for result in found[:3]:
        assert np.isnan(result).tolist() == [True] * 3 + [False] * 3
    for result in found[3:]:
        assert np.isnan(result).tolist() == [True, False, True, False, False, False]


@pytest.mark.parametrize("fill", [0.0, -1.5])
def test_padding(fill: float) -> None:
    net = Small()
    pads = ints(0, 1, 2, 0, 0, 0, 1, 3)
    check(lowered(net, 2, net.node("Pad", net.input("n", 3, 4, 5), pads, np.float32(fill))))


def test_transposes_slices_and_concatenation() -> None:
    net = Small()
    x = net.input("n", 4, 3, 5)
    turned = net.node("Transpose", x, perm=[0, 2, 3, 1])
    part = net.node("Slice", x, ints(4, 1), ints(-5, 4), ints(3, 1), ints(-1, 1))
    joined = net.node("Concat", x, net.node("Relu", x), axis=1)
    check(lowered(net, 3, turned, part, joined))


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("Sin", "Map .*no kernel computes sin"),
        ("ReduceLogSumExp", "Reduce .*no kernel reduces by logsumexp"),
        ("ArgMax", "Top .*no kernel computes it yet"),
    ],
)
def test_what_no_kernel_computes_is_refused_by_name(op: str, reason: str) -> None:
    net = Small()
    plan = lowered(net, 1, net.node(op, net.input("n", 3, 4, 5)))
    with pytest.raises(RefusedError, match=reason):
        emit_module([plan], TARGET)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *((kind, np.float32) for kind in (np.int64, np.int32, np.uint8, np.bool_)),
        *((kind, np.bool_) for kind in (np.int64, np.int32, np.uint8, np.float32)),
        *((np.int64, np.int64), (np.bool_, np.int64), (np.uint8, np.int32)),
    ],
)
def test_types_of_the_caller(source: type, target: type) -> None:
    net = Small()
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    plan = lowered(net, 3, net.node("Cast", net.input("n", 5, dtype=source), to=to))
    feeds = feeds_of(plan)
    (x,) = feeds.values()
    x[0, :2] = 0, 1
    (found,) = run_kernels(plan, *emitted(plan), feeds).values()
    assert np.array_equal(found, x.astype(target))
