"""Exact shrink through operators that move indices about: selections, splits, pads, gathers."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from shrinking import shrink, tail


def test_option_a_shortcut_pads_fewer_channels() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 4), dead=[2], dead_bias=0.0, name="a"))
    y = net.conv(x, (4, 8), dead=[0, 4, 7], dead_bias=0.0, strides=[2, 2], name="b")
    ends = net.weight(np.array([2**62, 2**62]))
    index = [net.weight(np.array(v)) for v in ([0, 0], [2, 3], [2, 2])]
    cut = net.node("Slice", x, index[0], ends, index[1], index[2])
    pads = net.weight(np.array([0, 2, 0, 0, 0, 2, 0, 0]))
    shortcut = net.node("Pad", cut, pads)
    found = shrink(tail(net, net.node("Relu", net.node("Add", y, shortcut)), 8))
    # 0 and 7 are padding above a dead row; 4 is channel 2 of the shortcut, dead in both
    assert found.widths["b.weight"] == 5
    assert found.widths["a.weight"] == 3


@pytest.mark.parametrize("mode", ["split", "slice", "gather"])
def test_selections_count_again(mode: str) -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    if mode == "split":
        left, right = net.node("Split", x, outputs=2, axis=1, num_outputs=2)
    elif mode == "slice":
        bounds = [net.weight(np.array([v])) for v in (0, 4, 8, 1)]
        left = net.node("Slice", x, bounds[0], bounds[1], bounds[3])
        right = net.node("Slice", x, bounds[1], bounds[2], bounds[3])
    else:
        left = net.node("Gather", x, net.weight(np.array([3, 1, 2, 0])), axis=1)
        right = net.node("Gather", x, net.weight(np.array([4, 7, -2, 5])), axis=1)
    a = net.conv(left, (4, 3), name="left")
    b = net.conv(right, (4, 3), name="right")
    found = shrink(net.model(net.node("Add", a, b)))
    assert found.widths == {"a.weight": 5, "left.weight": 3, "right.weight": 3}


@pytest.mark.parametrize("form", ["scalar", "matrix", "nd"])
def test_gathers_from_another_axis_let_channels_pass(form: str) -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    if form == "nd":
        x = net.node("Transpose", x, perm=[2, 3, 0, 1])
        picked = net.node("GatherND", x, net.weight(np.array([[[0, 1], [2, 3]]])))
        y = net.node("Transpose", picked, perm=[2, 3, 0, 1])
    else:
        index = np.array(2) if form == "scalar" else np.array([[0, 1], [2, 2]])
        y = net.node("Gather", x, net.weight(index), axis=3)
        shape = net.weight(np.array([0, 8, 7, -1]))
        y = net.node("Reshape", y, shape)
    z = net.node("Where", net.weight(np.array(True)), y, net.weight(np.array(0.0)))
    found = shrink(net.model(net.conv(z, (8, 3), kernel=1, name="b")))
    assert found.widths == {"a.weight": 5, "b.weight": 3}


def test_computed_indices_are_read() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    offsets, rows = net.weight(np.array([[0, 1, 2, 3]])), net.weight(np.array([[1], [0], [2]]))
    y = net.node("Gather", x, net.node("Add", offsets, rows), axis=3)
    y = net.node("Reshape", y, net.weight(np.array([0, 8, 7, 12])))
    found = shrink(net.model(net.conv(y, (8, 3), kernel=1, name="b")))
    assert found.widths == {"a.weight": 5, "b.weight": 3}


def test_split_of_an_old_opset_keeps_its_attribute() -> None:
    net = Net(opset=11)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    left, right = net.node("Split", x, outputs=2, axis=1, split=[3, 5])
    a, b = net.conv(left, (3, 3), name="left"), net.conv(right, (5, 3), name="right")
    assert shrink(net.model(net.node("Add", a, b))).widths["a.weight"] == 5


def test_a_refusal_names_the_operator_that_pins() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[0, 1], dead_bias=0.0, name="a")
    y = net.node("InstanceNormalization", net.node("Transpose", x, perm=[0, 2, 1, 3]), *(
        net.weight(np.linspace(1.0, 2.0, 7)) for _ in range(2)
    ))  # fmt: skip
    found = shrink(net.model(net.node("Transpose", y, perm=[0, 2, 1, 3])))
    reasons = {note.reason for note in found.result.notes if note.status == "refused"}
    assert len(reasons) == 1
    assert reasons.pop().startswith("InstanceNormalization")
