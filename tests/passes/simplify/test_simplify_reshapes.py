"""Reshape-Transpose-Reshape chains: what becomes one node, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, ShrinkChannels, SimplifyReshapes
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


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        simplify_reshapes,
        "replace_input",
        lambda node, index, array, hint: real(node, index, np.sort(array), hint),
    )
    net = Net(channels=6)
    model = net.model(shuffle(net, "input", 2, 6, 7))
    with pytest.raises(PassError, match="changed the outputs"):
        apply(model, SimplifyReshapes())


real = simplify_reshapes.replace_input
