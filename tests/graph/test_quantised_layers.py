"""The zeros of layers that are stored as integers, in each form that tools write."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net

from prunedeploy.graph.layers import Layer, node_layer

RNG = np.random.default_rng(0)
WEIGHT = RNG.integers(1, 100, (4, 3, 3, 3)).astype(np.int8)
WEIGHT[1] = 0  # a dead row
WEIGHT[2, 0, 0] = 0
SCALES = np.float32([0.1, 0.2, 0.3, 0.4])


def layer(net: Net, output: str) -> Layer:
    model = net.model(output)
    node = next(n for n in model.graph if n.outputs[0].name == output)
    found = node_layer(node)
    assert found is not None
    return found


def qdq(net: Net, zero: np.ndarray) -> str:
    """ONNX Runtime's: integers, one scale a row."""
    shift = zero.reshape(-1, 1, 1, 1) if zero.size > 1 else zero
    stored = (WEIGHT.astype(int) + shift).astype(zero.dtype)
    names = (net.weight(stored, "w"), net.weight(SCALES), net.weight(zero))
    return net.node("Conv", "input", net.node("DequantizeLinear", *names, axis=0))


def rounded(net: Net, _: np.ndarray) -> str:
    """SparseML's: float weights that are quantised and back; what rounds to zero is zero."""
    stored = WEIGHT * SCALES.reshape(-1, 1, 1, 1)
    stored = np.where(WEIGHT == 0, 0.04, stored).astype(np.float32)
    rest = (net.weight(SCALES), net.weight(np.zeros(4, np.int8)))
    quantised = net.node("QuantizeLinear", net.weight(stored, "w"), *rest, axis=0)
    return net.node("Conv", "input", net.node("DequantizeLinear", quantised, *rest, axis=0))


def qlinear(net: Net, zero: np.ndarray) -> str:
    shift = zero.reshape(-1, 1, 1, 1) if zero.size > 1 else zero
    stored = net.weight((WEIGHT.astype(int) + shift).astype(zero.dtype), "w")
    one, off = net.weight(np.float32(1)), net.weight(np.uint8(0))
    x = net.node("QuantizeLinear", "input", one, off)
    return net.node(
        "QLinearConv", x, one, off, stored, net.weight(SCALES), net.weight(zero), one, off
    )


def integer(net: Net, zero: np.ndarray) -> str:
    stored = net.weight((WEIGHT.astype(int) + zero).astype(zero.dtype), "w")
    off = net.weight(np.uint8(0))
    x = net.node("QuantizeLinear", "input", net.weight(np.float32(1)), off)
    return net.node("ConvInteger", x, stored, off, net.weight(zero))


@pytest.mark.parametrize("form", [qdq, rounded, qlinear, integer])
@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(128)])
def test_zeros_are_counted(form, zero: np.generic) -> None:
    net = Net(channels=3, size=8, dtype=np.float32)
    net.weights = {}
    value = np.asarray(zero) if form is integer else np.full(4, zero)
    found = layer(net, form(net, value))
    assert (found.name, found.shape) == ("w", (4, 3, 3, 3))
    pattern = found.pattern
    assert (pattern.weights, pattern.nonzero) == (WEIGHT.size, np.count_nonzero(WEIGHT))
    assert (pattern.dead_outputs, pattern.outputs) == (1, 4)


def test_a_zero_point_that_is_forgotten_would_show() -> None:
    """The broken twin: with another zero point, what is stored as 0 is no zero."""
    net = Net(channels=3, size=8, dtype=np.float32)
    names = (net.weight(WEIGHT, "w"), net.weight(SCALES), net.weight(np.full(4, 3, np.int8)))
    found = layer(net, net.node("Conv", "input", net.node("DequantizeLinear", *names, axis=0)))
    assert found.pattern.nonzero == np.count_nonzero(WEIGHT != 3)


def test_a_matrix_of_integers() -> None:
    net = Net(channels=3, size=8, dtype=np.float32)
    weight = np.zeros((8, 5), np.int8)
    weight[:, :2] = 7
    off = net.weight(np.uint8(0))
    x = net.node("QuantizeLinear", "input", net.weight(np.float32(1)), off)
    zero = net.weight(np.zeros(5, np.int8))
    found = layer(net, net.node("MatMulInteger", x, net.weight(weight, "w"), off, zero))
    assert (found.pattern.dead_outputs, found.pattern.outputs) == (3, 5)
