"""Exact shrink of axes that are reduced over: what adds nothing goes, and means still count it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from net import Net
from shrinking import shrink, tail

from prunedeploy.passes import PassError
from prunedeploy.passes.operators import reductions
from prunedeploy.passes.operators.table import OPERATORS

SUMS = ["ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"]


def reduced(net: Net, operator: str, x: str, axes: list[int], keepdims: int = 1) -> str:
    """The reduction in the form of the net's opset: axes as an input from 18 on (13 for sums)."""
    if net.opset >= (13 if operator == "ReduceSum" else 18):
        return str(net.node(operator, x, net.weight(np.array(axes, np.int64)), keepdims=keepdims))
    return str(net.node(operator, x, axes=axes, keepdims=keepdims))


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("operator", SUMS)
def test_zero_channels_go_from_a_reduction(operator: str, keepdims: int, opset: int) -> None:
    net = Net(opset=opset)
    x = net.conv("input", (5, 9), dead=[0, 4, 8], dead_bias=0.0, name="a")
    found = shrink(net.model(reduced(net, operator, x, [1], keepdims)))
    assert found.widths["a.weight"] == 6
    assert sum(node.op_type == "Mul" for node in found.model.graph) == (operator == "ReduceMean")


@pytest.mark.parametrize("axes", [[1, 2, 3], [-3], [1, -1], [0, 1], []])
def test_mean_over_several_axes(axes: list[int]) -> None:
    net = Net()
    x = net.conv("input", (5, 7), dead=[1, 2], dead_bias=0.0, name="a")
    found = shrink(net.model(reduced(net, "ReduceMean", x, axes)))
    assert found.widths["a.weight"] == 5


@pytest.mark.parametrize("size", [6, "side"])
def test_mean_with_channels_and_maps_of_unknown_size(size: int | str) -> None:
    net = Net(size=size)
    x = net.conv("input", (5, 7), dead=[1, 2], dead_bias=0.0, name="a")
    found = shrink(net.model(reduced(net, "ReduceMean", x, [1, 2], keepdims=0)))
    assert found.widths["a.weight"] == 5


def test_spatial_attention() -> None:
    """CBAM (Woo et al., ECCV 2018): mean and maximum over channels, then a map for all of them.

    Of the channels at zero the maximum needs one.
    """
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 6], dead_bias=0.0, name="a"))
    both = [reduced(net, operator, x, [1]) for operator in ("ReduceMean", "ReduceMax")]
    y = net.conv(net.node("Concat", *both, axis=1), (2, 1), kernel=7)
    found = shrink(tail(net, net.node("Mul", x, net.node("Sigmoid", y)), 8))
    assert found.widths["a.weight"] == 6


@pytest.mark.parametrize(("operator", "left"), [("ReduceMax", 6), ("ReduceMin", 6)])
def test_extremes_notice_one_constant(operator: str, left: int) -> None:
    net = Net()
    x = net.conv("input", (5, 8), bias=0.1, name="a")
    weight, bias = net.weights["a.weight"], net.weights["a.bias"]
    weight[[1, 4, 6]] = 0
    bias[[1, 4, 6]] = [0.5, -0.5, 0.0]
    assert shrink(net.model(reduced(net, operator, x, [1]))).widths["a.weight"] == left


def test_a_product_loses_its_ones() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=1.0, name="a")
    net.weights["a.bias"][0], net.weights["a.weight"][0] = 0.0, 0.0
    assert shrink(net.model(reduced(net, "ReduceProd", x, [1]))).widths["a.weight"] == 6


def test_constants_other_than_zero_stay_in_a_mean_and_it_is_named() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.3, name="a")
    found = shrink(net.model(reduced(net, "ReduceMean", x, [1])))
    assert not found.result.changed
    (note,) = (note for note in found.result.notes if note.status == "refused")
    assert note.count == 2
    assert "ReduceMean" in note.reason


def test_several_rounds_share_one_factor() -> None:
    """The mean feeds nothing that lets go of channels at once: they go in two rounds."""
    net = Net()
    x = net.conv("input", (5, 9), dead=[1, 4], dead_bias=0.0, name="a")
    split = net.node("Reshape", x, net.weight(np.array([0, 3, 3, 49])))
    mean = reduced(net, "ReduceMean", split, [2], keepdims=0)
    found = shrink(net.model(net.node("Mul", mean, net.weight(np.array(3.0)))))
    assert not found.result.changed  # unequal in the parts
    net = Net()
    x = net.conv("input", (5, 9), dead=[1, 4, 7, 0, 2], dead_bias=0.0, name="a")
    split = net.node("Reshape", x, net.weight(np.array([0, 3, 3, 49])))
    mean = reduced(net, "ReduceMean", split, [1, 2], keepdims=0)
    found = shrink(net.model(net.node("Mul", mean, net.weight(np.array(3.0)))))
    # the first of the three goes whole, then the middle one of those in the others
    assert found.widths["a.weight"] == 4
    assert [node.op_type for node in found.model.graph].count("Mul") == 1


def test_integers_are_left_alone() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    whole = net.node("Cast", net.node("Relu", x), to=7)
    found = shrink(net.model(reduced(net, "ReduceMean", whole, [1])))
    assert not found.result.changed


def test_a_mean_that_forgets_what_it_counted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    row = OPERATORS["ReduceMean"]
    monkeypatch.setitem(OPERATORS, "ReduceMean", replace(row, edit=None))
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(net.model(reduced(net, "ReduceMean", x, [1])))


def test_a_maximum_that_forgets_its_constants_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "_noticed", lambda _, known: np.isnan(known))
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=1.5, name="a")
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(net.model(reduced(net, "ReduceMax", x, [1])))
