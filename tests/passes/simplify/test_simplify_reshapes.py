"""Reshape-Transpose-Reshape chains: what becomes one node, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, ShrinkChannels, SimplifyReshapes
from prunedeploy.passes.analysis.layout import Layout
from prunedeploy.passes.simplify import simplify_reshapes
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def apply(model: ir.Model, *steps: passes.Pass) -> list[str]:
    """Run the passes; the outputs must be the same to the last bit where nothing is cut."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    before = Evaluator(model).run(feeds)
    passes.run(model, steps, feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed
    return [node.op_type for node in model.graph]


def chain(net: Net, x: str, first: list[int], order: list[int], last: list[int]) -> str:
    y = net.node("Reshape", x, net.weight(np.array(first)))
    y = net.node("Transpose", y, perm=order)
    return str(net.node("Reshape", y, net.weight(np.array(last))))


def shuffle(net: Net, x: str, groups: int, width: int, size: int) -> str:
    inner = [0, groups, width // groups, size, size]
    return chain(net, x, inner, [0, 2, 1, 3, 4], [0, width, size, size])


def test_channel_shuffle_is_a_gather() -> None:
    net = Net(channels=6)
    assert apply(net.model(shuffle(net, "input", 2, 6, 7)), SimplifyReshapes()) == ["Gather"]


def test_shuffled_channels_are_cut_one_by_one() -> None:
    net = Net(size=4)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    model = net.model(net.conv(shuffle(net, x, 2, 8, 4), (8, 3), name="b"))
    apply(model, SimplifyReshapes(), ShrinkChannels())
    assert model.graph.initializers["a.weight"].shape[0] == 5


def test_merged_axes_moved_as_one_are_a_transpose() -> None:
    net = Net(channels=4, size=6)
    model = net.model(chain(net, "input", [-1, 6, 6], [0, 2, 1], [-1, 4, 6, 6]))
    # the sides are equal, so the result could be either way round: it must not be mistaken
    assert apply(model, SimplifyReshapes()) == ["Transpose"]
    net = Net(channels=4, size=6)
    x = net.node("Slice", "input", *[net.weight(np.array([v])) for v in (0, 5, 3)])
    model = net.model(chain(net, x, [-1, 6, 5], [0, 2, 1], [-1, 4, 5, 6]))
    assert apply(model, SimplifyReshapes()) == ["Slice", "Transpose"]


def halves(net: Net, x: str, width: int, size: int | None) -> list[str]:
    """ShuffleNetV2's shuffle by way of three dimensions; ``None``: sizes read from the map."""
    if size is not None:
        first = net.weight(np.array([-1, 2, size * size]))
        last = net.weight(np.array([2, -1, width // 2, size, size]))
    else:
        batch, height, across = (
            net.node("Shape", x, start=axis, end=axis + 1) for axis in (0, 2, 3)
        )
        channels, two = net.weight(np.array([width])), net.weight(np.array([2]))
        merged = net.node("Div", net.node("Mul", batch, channels), two)
        pixels = net.node("Mul", height, across)
        first = str(net.node("Concat", merged, two, pixels, axis=0))
        half = net.weight(np.array([width // 2]))
        last = str(net.node("Concat", two, batch, half, height, across, axis=0))
    y = net.node("Transpose", net.node("Reshape", x, first), perm=[1, 0, 2])
    y = net.node("Reshape", y, last)
    return [str(net.node("Gather", y, net.weight(np.array(i)), axis=0)) for i in (0, 1)]


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.parametrize("dead", [[0, 1, 2, 3], [0, 2, 5]])
def test_a_shuffle_by_way_of_three_dimensions_lets_every_dead_channel_go(
    size: int | None, dead: list[int]
) -> None:
    net = Net(size=size or "side")
    x = net.node("Relu", net.conv("input", (5, 8), dead=dead, dead_bias=0.0, name="a"))
    y, z = halves(net, x, 8, size)
    y, z = net.conv(y, (4, 3), name="b"), net.conv(z, (4, 3), name="c")
    model = net.model(net.node("Add", y, z))
    apply(model, SimplifyReshapes(), ShrinkChannels())
    weights = model.graph.initializers
    assert weights["a.weight"].shape[0] == 8 - len(dead)
    odd = sum(channel % 2 for channel in dead)
    assert weights["b.weight"].shape[1] == 4 - len(dead) + odd
    assert weights["c.weight"].shape[1] == 4 - odd


def test_a_shuffle_of_maps_of_any_size_is_a_gather() -> None:
    net = Net(channels=6, size="side")
    batch, height, across = (
        net.node("Shape", "input", start=axis, end=axis + 1) for axis in (0, 2, 3)
    )
    numbers = [net.weight(np.array([number])) for number in (2, 3, 6)]
    y = net.node(
        "Reshape", "input", net.node("Concat", batch, *numbers[:2], height, across, axis=0)
    )
    y = net.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = net.node("Reshape", y, net.node("Concat", batch, numbers[2], height, across, axis=0))
    assert apply(net.model(y), SimplifyReshapes())[-1] == "Gather"


def test_heads_merged_with_the_batch_are_split_and_moved_at_once() -> None:
    """torch's MultiheadAttention: queries as [tokens, batch * heads, dimensions] on the way."""
    net = Net(channels=6, size=8)
    x = net.node("Reshape", "input", net.weight(np.array([-1, 48, 8])))
    x = net.node("Relu", net.node("Transpose", x, perm=[1, 0, 2]))  # [tokens, batch, features]
    y = net.node("Reshape", x, net.weight(np.array([48, -1, 4])))
    y = net.node("Transpose", y, perm=[1, 0, 2])
    y = net.node("Reshape", y, net.weight(np.array([-1, 2, 48, 4])))
    operators = apply(net.model(y), SimplifyReshapes())
    assert operators[-3:] == ["Relu", "Reshape", "Transpose"]


def test_indices_out_of_a_part_are_left_to_the_runtime() -> None:
    net = Net(channels=8, size=4)
    y = net.node("Reshape", "input", net.weight(np.array([0, 4, 2, 4, 4])))
    y = net.node("Transpose", y, perm=[2, 0, 1, 3, 4])
    model = net.model(net.node("Gather", y, net.weight(np.array(2)), axis=0))
    assert not SimplifyReshapes()(model).changed


@pytest.mark.parametrize("case", ["window", "read twice", "output"])
def test_other_chains_are_left_alone(case: str) -> None:
    net = Net(channels=4, size=6)
    if case == "window":  # pixels to channels: no axis keeps its place
        y = chain(net, "input", [0, 4, 3, 2, 3, 2], [0, 1, 3, 5, 2, 4], [0, 16, 3, 3])
        outputs = [y]
    else:
        outputs = [shuffle(net, "input", 2, 4, 6)]
        middle = net.nodes[1].output[0]
        outputs.append(middle if case == "output" else str(net.node("Relu", middle)))
    operators = apply(net.model(*outputs), SimplifyReshapes())
    assert operators[:3] == ["Reshape", "Transpose", "Reshape"]


def _still(self: Layout, node: ir.Node) -> bool:
    return node.op_type == "Transpose" or followed(self, node)


PLANTED = {
    "indices in their old order": (
        "prunedeploy.passes.simplify.simplify_reshapes.replace_input",
        lambda node, index, array, hint: real(node, index, np.sort(array), hint),
    ),
    "nothing is transposed": ("prunedeploy.passes.analysis.layout.Layout.follow", _still),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLANTED[bug])
    net = Net(channels=6, size=7)
    model = net.model(shuffle(net, "input", 2, 6, 7))
    with pytest.raises(PassError, match="changed the outputs"):
        apply(model, SimplifyReshapes())


def test_a_planted_bug_in_the_halves_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    found = simplify_reshapes._indices
    monkeypatch.setattr(simplify_reshapes, "_indices", lambda *at: found(*at)[::-1])
    net = Net(channels=6, size=6)
    model = net.model(*halves(net, "input", 6, 6))
    with pytest.raises(PassError, match="changed the outputs"):
        apply(model, SimplifyReshapes())


real = simplify_reshapes.replace_input
followed = Layout.follow
