"""Running the shrinker on small networks, and networks that need all of its pieces."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from net import Net

from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes import ShrinkChannels, run
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


@dataclass
class Shrunk:
    model: ir.Model
    result: PassResult
    widths: dict[str, int]  # weight name -> output channels


def shrink(model: ir.Model, **options: float | str) -> Shrunk:
    """Run the pass under the runner (checker, idempotence) and compare in float64."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    before = Evaluator(model).run(feeds)
    (report,) = run(model, (ShrinkChannels(**options),), feeds)
    after = Evaluator(model).run(feeds)
    difference = verify.compare(before, after, tolerance=1e-12)
    assert difference.passed, difference
    widths = {
        name: value.const_value.shape[0]
        for name, value in model.graph.initializers.items()
        if name.endswith(".weight")
    }
    return Shrunk(model, report.result, widths)


def tail(net: Net, x: str, channels: int) -> ir.Model:
    """A padded convolution and a head behind ``x``, so that something reads it."""
    y = net.conv(x, (channels, 4), name="tail")
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.node("Relu", y)))
    return net.model(net.linear(pooled, (4, 3)))


def residual(
    dead_a: list[int], dead_b: list[int], bias: float = 0.0, size: int | str = "side"
) -> tuple[Net, str]:
    net = Net(size=size)
    x = net.node("Relu", net.conv("input", (5, 8), dead=dead_a, dead_bias=bias, name="stem"))
    y = net.node("Relu", net.conv(x, (8, 6), dead=[0, 2], dead_bias=bias, name="inner"))
    z = net.conv(y, (6, 8), dead=dead_b, dead_bias=bias, name="outer")
    return net, net.node("Relu", net.node("Add", x, z))
