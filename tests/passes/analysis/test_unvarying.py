"""Which outputs no input can change: found where it is so, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net

from prunedeploy.passes.analysis.unvarying import unconnected_outputs, unvarying_outputs


def chain(dead: range, *, pad: int = 1) -> Net:
    """Three layers; rows ``dead`` of the second are zero, and leave its bias."""
    net = Net(channels=3, size=8)
    x = net.node("Relu", net.conv("input", (3, 8)))
    x = net.node("Relu", net.conv(x, (8, 8), dead=dead, dead_bias=0.7))
    net.input = net.node("Relu", net.conv(x, (8, 4), pad=pad))
    return net


@pytest.mark.parametrize("pad", [0, 1])  # 1: the constants become maps
def test_a_dead_layer_cuts_everything_behind_it_off(pad: int) -> None:
    net = chain(range(8), pad=pad)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.input))
    model = net.model(net.input, net.linear(pooled, (4, 2)))
    assert unvarying_outputs(model) == tuple(x.name for x in model.graph.outputs)
    assert unconnected_outputs(model) == ()


def test_one_live_channel_is_enough() -> None:
    """The broken twin of the above."""
    net = chain(range(7))
    assert unvarying_outputs(net.model(net.input)) == ()


def test_what_depends_on_the_shape_alone() -> None:
    net = Net(channels=3, size=8)
    shape = net.node("Shape", "input")
    ones = net.node("Expand", net.weight(np.ones((1, 1, 1, 1))), shape)
    model = net.model(ones, net.node("Add", ones, "input"))
    assert unconnected_outputs(model) == unvarying_outputs(model) == (ones,)


def test_random_numbers_and_subgraphs_vary() -> None:
    net = Net(channels=3, size=8)
    noise = net.node("RandomNormal", shape=[2, 2])
    assert unvarying_outputs(net.model(noise)) == ()
