"""Kernels of pools, reductions, elementwise steps and copies in the PTX machine."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_layers import TARGET, check, emitted, feeds_of, kinds, lowered
from lowered import Small, ints
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
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_reductions(op: str, axes: tuple[int, ...]) -> None:
    net = Small()
    y = net.node(op, net.input(3, 6, 5, 7), ints(*axes), keepdims=1)
    assert "reduce" in kinds(check(lowered(net, 3, y)))


UNARY = (
    *("Relu", "LeakyRelu", "Abs", "Neg", "Exp", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Reciprocal",),
)


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_element(op: str) -> None:
    net = Small()
    check(lowered(net, 2, net.node(op, net.input("n", 3, 5, 7))))


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
        ("Softmax", "Softmax .*no kernel computes it yet"),
        ("Erf", "Map .*no kernel computes erf"),
        ("ReduceL2", "Reduce .*no kernel reduces by l2"),
    ],
)
def test_what_no_kernel_computes_is_refused_by_name(op: str, reason: str) -> None:
    net = Small()
    plan = lowered(net, 1, net.node(op, net.input("n", 3, 4, 5)))
    with pytest.raises(RefusedError, match=reason):
        emit_module([plan], TARGET)


def test_other_types_are_refused() -> None:
    net = Small()
    plan = lowered(net, 1, net.node("Cast", net.input("n", 3, dtype=np.int64), to=1))
    with pytest.raises(RefusedError, match="it is int64, kernels compute in float32"):
        emit_module([plan], TARGET)
