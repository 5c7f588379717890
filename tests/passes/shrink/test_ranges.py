"""Channels that a range of the inputs proves constant go; those that it nearly proves stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import shrink, tail

from prunedeploy.core.records import InputRange
from prunedeploy.graph import input_range, shapes
from prunedeploy.passes import PassError
from prunedeploy.passes.analysis import layer_ranges, range_propagation


def biased(
    op: str, bias: dict[int, float], pad: int = 0, **attributes: object
) -> tuple[Net, str, np.ndarray]:
    """Six channels of a convolution, each with weights of sum one in size, and these biases."""
    net = Net()
    x = net.conv("input", (5, 6), bias=0.01, pad=pad, name="a")
    w = net.weights["a.weight"]
    w /= np.abs(w).sum(axis=(1, 2, 3), keepdims=True)
    for channel, number in bias.items():
        net.weights["a.bias"][channel] = number
    return net, net.node(op, x, **attributes), w


def within(model: ir.Model, low: float, high: float) -> ir.Model:
    input_range.attach(model, {"input": InputRange((low,), (high,))})
    return model


def test_relu_that_never_fires() -> None:
    """|w| sums to one, so that inputs within [-1, 1] reach no further than the bias and one."""
    net, x, _ = biased("Relu", {1: -1.001, 3: -2.0, 4: -0.9})
    shrunk = shrink(within(tail(net, x, 6), -1, 1))
    assert shrunk.widths["a.weight"] == 4
    assert any("by the range" in note.reason and note.count == 2 for note in shrunk.result.notes)


def test_nothing_without_a_range() -> None:
    net, x, _ = biased("Relu", {1: -1.001, 3: -2.0})
    shrunk = shrink(tail(net, x, 6))
    assert not shrunk.result.changed
    assert shrunk.widths["a.weight"] == 6


def test_rounding_keeps_what_touches_zero() -> None:
    net, x, w = biased("Relu", {2: 0.0})
    net.weights["a.bias"][2] = -np.maximum(w[2], 0).sum()  # the most that [0, 1] can make is 0
    assert shrink(within(tail(net, x, 6), 0, 1)).widths["a.weight"] == 6


@pytest.mark.parametrize("pad", [0, 1])
def test_clip_that_is_always_saturated(pad: int) -> None:
    """Also where the reader pads: the constant six becomes a map."""
    net, x, _ = biased("Relu", {0: 9.0, 5: -3.0}, pad=pad)
    x = net.node("Clip", x, net.weight(np.array(0.0)), net.weight(np.array(6.0)))
    assert shrink(within(tail(net, x, 6), -1, 1)).widths["a.weight"] == 4


@pytest.mark.parametrize("op", ["HardSwish", "HardSigmoid"])
def test_saturated_activations(op: str) -> None:
    net, x, _ = biased(op, {0: -5.0, 2: 5.0, 3: -2.5 if op == "HardSwish" else 0.0})
    gone = 1 if op == "HardSwish" else 2  # above three HardSwish is the identity
    assert shrink(within(tail(net, x, 6), -1, 1)).widths["a.weight"] == 6 - gone


def test_without_a_range_activations_bound_what_follows() -> None:
    """Minus a sigmoid is never positive, whatever comes in."""
    net = Net()
    x = net.node("Sigmoid", net.conv("input", (5, 6), name="a"))
    net.weight(-np.abs(net.random.standard_normal((7, 6, 1, 1))), "b.weight")
    net.weights["b.weight"][3:] *= -1
    x = net.node("Relu", net.node("Conv", x, "b.weight"))
    shrunk = shrink(tail(net, x, 7))
    assert shrunk.widths["b.weight"] == 4


def test_channels_have_ranges_of_their_own() -> None:
    net = Net(channels=2)
    w = np.array([[1.0, 0], [0, 1.0], [-1, 0], [0, -1]]).reshape(4, 2, 1, 1)
    x = net.node("Relu", net.node("Conv", "input", net.weight(w, "a.weight")))
    model = tail(net, x, 4)
    input_range.attach(model, {"input": InputRange((-2.0, 1.0), (-1.0, 3.0))})
    assert shrink(model).widths["a.weight"] == 2


def test_a_broken_analysis_changes_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding forgotten: zeros at the border are not within [2, 3]."""
    net = Net()
    x = net.conv("input", (5, 6), pad=1, bias=0.5, name="a")
    net.weights["a.weight"][:] = -np.abs(net.weights["a.weight"])
    net.weights["a.bias"][:] = np.abs(net.weights["a.weight"]).sum(axis=(1, 2, 3))
    model = within(tail(net, net.node("Relu", x), 6), 2, 3)
    proto = ir.to_proto(model)
    assert shrink(model).widths["a.weight"] == 6
    model = ir.from_proto(proto)
    shapes.infer_shapes(model)
    original = layer_ranges.layer_range

    def forgetful(found, weights, ranges):
        return original(replace(found, uniform=True), weights, ranges)

    monkeypatch.setattr(range_propagation, "layer_range", forgetful)
    with pytest.raises(PassError):
        shrink(model)
