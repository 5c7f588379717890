"""Bugs planted in the shrinker: the runner must catch every one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import residual, shrink, tail

from prunedeploy.passes import PassError
from prunedeploy.passes.operators import layers
from prunedeploy.passes.operators.table import OPERATORS


def _padding_forgotten(node: ir.Node) -> layers.Layer | None:
    assert CONV.layer is not None
    found = CONV.layer(node)
    return replace(found, uniform=True) if found is not None else None


CONV = OPERATORS["Conv"]
PASSES = "prunedeploy.passes."
PLANTED: dict[str, tuple[str, object]] = {
    "constants are dropped": (PASSES + "shrink.plan._absorptions", lambda *_: []),
    "nothing is merged": (PASSES + "shrink.edit._merge", lambda _: None),
    "no map is added": (PASSES + "shrink.edit._add_map", lambda *_: None),
    "every row is a constant": (
        PASSES + "operators.layers.Weights.touching",
        lambda self, layer, channels: np.zeros(len(self.used(layer)), bool),
    ),
    "nobody reads anything": (
        PASSES + "operators.layers.Weights.needed",
        lambda self, layer, rows: np.zeros(layer.source.shape[1], bool),
    ),
    "sums are not coupled": (
        PASSES + "analysis.axes.Axes.tie",
        lambda self, left, right: None,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner catches a pass with one of its pieces broken, on networks that need the piece."""
    monkeypatch.setattr(*PLANTED[name])

    def three_networks() -> None:
        for bias in (0.6, 0.0):
            for size in (7, "side"):
                net, x = residual([1, 4, 7], [1, 4, 5], bias, size)
                shrink(tail(net, x, 8))
        net = Net()
        x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.4, name="a")
        shrink(net.model(net.conv(net.node("Sigmoid", x), (8, 4), kernel=1, name="b")))

    with pytest.raises(PassError):
        three_networks()


def test_a_planted_bug_that_forgets_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Conv", replace(CONV, layer=_padding_forgotten))
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(tail(net, x, 8))
