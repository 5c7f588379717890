"""Random networks with random dead channels, constants and dead readers: outputs never move."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from net import Net

from prunedeploy import model as models
from prunedeploy import verify
from prunedeploy.evaluate import Evaluator
from prunedeploy.passes import ShrinkChannels, run

ACTIVATIONS = ("Relu", "Sigmoid", "HardSwish", "Elu", "Neg", "Abs", "Softplus")


def grow(draw: st.DrawFn) -> ir.Model:
    """A network of three to nine operators over a pool of tensors of the same map size."""
    size = draw(st.sampled_from([4, "side"]))
    net = Net(channels=draw(st.integers(1, 4)), size=size, seed=draw(st.integers(0, 10**6)))
    pool = [(net.input, net.inputs[0].type.tensor_type.shape.dim[1].dim_value)]
    for _ in range(draw(st.integers(3, 9))):
        source, width = draw(st.sampled_from(pool))
        pool.append(_operator(draw, net, source, width, pool))
    used = {name for node in net.nodes for name in node.input}
    loose = [(name, width) for name, width in pool[1:] if name not in used]
    heads = [net.conv(name, (width, 2), draw(st.sampled_from([1, 3]))) for name, width in loose]
    return net.model(*heads)


def _subset(draw: st.DrawFn, size: int) -> list[int]:
    return draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size))


def _operator(
    draw: st.DrawFn, net: Net, source: str, width: int, pool: list[tuple[str, int]]
) -> tuple[str, int]:
    kinds = ["conv", "conv", "conv", "activation", "depthwise", "norm", "concat", "split", "excite"]
    kind = draw(st.sampled_from([*kinds, "add"]))
    same = [name for name, other in pool if other == width]
    if kind == "activation":
        return str(net.node(draw(st.sampled_from(ACTIVATIONS)), source)), width
    if kind == "add":
        operator = draw(st.sampled_from(["Add", "Mul", "Sub", "Max"]))
        return str(net.node(operator, source, draw(st.sampled_from(same)))), width
    if kind == "concat":
        other, more = draw(st.sampled_from(pool))
        return str(net.node("Concat", source, other, axis=1)), width + more
    if kind == "split" and width > 1:
        first = draw(st.integers(1, width - 1))
        sizes = net.weight(np.array([first, width - first]))
        parts = net.node("Split", source, sizes, outputs=2, axis=1)
        chosen = draw(st.integers(0, 1))
        return parts[chosen], (first, width - first)[chosen]
    if kind == "norm":
        vectors = net.random.standard_normal((4, width))
        vectors[0][_subset(draw, width)] = 0
        vectors[3] = np.abs(vectors[3]) + 0.1
        names = [net.weight(v) for v in vectors]
        return str(net.node("BatchNormalization", source, *names)), width
    if kind == "excite":
        scale = net.conv(str(net.node("GlobalAveragePool", source)), (width, width), 1)
        return str(net.node("Mul", source, net.node("Sigmoid", scale))), width
    options = {
        "dead": _subset(draw, width) if kind == "depthwise" else [],
        "dead_bias": draw(st.sampled_from([0.0, 0.5, -0.5])),
        "kernel": draw(st.sampled_from([1, 3])),
    }
    if kind == "depthwise":
        return net.conv(source, (width, width), group=width, **options), width
    outs = draw(st.integers(1, 6))
    options |= {"dead": _subset(draw, outs), "unread": _subset(draw, width)}
    return net.conv(source, (width, outs), **options), outs


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    return grow(draw)


@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(networks())
def test_outputs_never_move(model: ir.Model) -> None:
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=3, size=4)
    before = Evaluator(model).run(feeds)
    size = models.weight_bytes(model)
    (report,) = run(model, (ShrinkChannels(),), feeds)
    difference = verify.compare(before, Evaluator(model).run(feeds), tolerance=1e-10)
    assert difference.passed, difference
    # a bias may be born, never more than a bias
    assert models.weight_bytes(model) <= size + 8 * 64
    assert report.result.changed or models.weight_bytes(model) == size
