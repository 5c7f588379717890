"""Whole branches that compute constants or are unread: nothing of them is left."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from net import Net
from shrinking import tail

from prunedeploy import passes
from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, RemoveDeadBranches
from prunedeploy.passes.simplify import remove_dead_branches
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

ALL = list(range(8))
Sizes = pytest.mark.parametrize("size", [7, "side"])


def apply(
    model: ir.Model, steps: tuple[passes.Pass, ...] = (RemoveDeadBranches(),)
) -> tuple[PassResult, list[str]]:
    """Under the runner, for batches of 1 and 3; the names of the operators left."""
    inputs = models.specs(model)[0]
    feeds = [verify.random_feeds(inputs, batch, seed=7, size=9) for batch in (1, 3)]
    before = [Evaluator(model).run(f) for f in feeds]
    reports = passes.run(model, steps, feeds[1])
    for given, expected in zip(feeds, before, strict=True):
        assert verify.compare(expected, Evaluator(model).run(given)).passed
    named = [r for r in reports if r.name == "remove-dead-branches"]
    return named[0].result, [node.op_type for node in model.graph]


def taken(result: PassResult) -> int:
    return sum(note.status == "taken" for note in result.notes)


def branch(net: Net, x: str, bias: float, pad: int = 1) -> str:
    """Two convolutions, 8 to 6 to 8, the second without a weight."""
    y = net.node("Relu", net.conv(x, (8, 6), name="inner"))
    return net.conv(y, (6, 8), dead=ALL, dead_bias=bias, name="outer", pad=pad)


@Sizes
@pytest.mark.parametrize("bias", [0.0, 0.4, None])
def test_residual_branch(size: int | str, bias: float | None) -> None:
    net = Net(size=size)
    x = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    y = net.node("Relu", net.conv(x, (8, 6), name="inner"))
    z = net.conv(y, (6, 8), dead=ALL, bias=0.4, dead_bias=bias, name="outer")
    model = tail(net, net.node("Relu", net.node("Add", z, x)), 8)
    result, operators = apply(model)
    assert taken(result) == 1
    assert operators.count("Conv") == 2
    assert ("Add" in operators) == (bias != 0.0)
    assert not {"inner.weight", "outer.weight", "outer.bias"} & set(model.graph.initializers)


def test_branch_that_other_constants_follow() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    z = net.node("Sigmoid", net.node("BatchNormalization", branch(net, x, 0.4), *vectors(net, 8)))
    result, operators = apply(tail(net, net.node("Sub", x, z), 8))
    assert taken(result) == 1
    assert "Sigmoid" not in operators


def vectors(net: Net, width: int) -> list[str]:
    return [net.weight(net.random.uniform(0.5, 1.5, width)) for _ in range(4)]


@pytest.mark.parametrize("bias", [0.7, 40.0])
def test_gate_of_squeeze_and_excite(bias: float) -> None:
    net = Net(size="side")
    x = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    squeezed = net.node("GlobalAveragePool", x)
    gate = net.conv(squeezed, (8, 8), kernel=1, dead=ALL, dead_bias=bias, name="gate")
    y = net.node("Mul", x, net.node("Sigmoid", gate))
    _, operators = apply(tail(net, y, 8))
    assert operators.count("Conv") == 2
    assert "Sigmoid" not in operators
    assert ("Mul" in operators) == (bias == 0.7)


def inception(net: Net, bias: float | None, unread: list[int], kernel: int = 3) -> ir.Model:
    """Three branches, concatenated; the middle one (4 to 6 channels) ends without a weight."""
    stem = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    middle = net.node("Relu", net.conv(stem, (8, 4), name="inner"))
    dead = list(range(6)) if bias is not None else []
    parts = [
        net.conv(stem, (8, 3), kernel=1, name="left"),
        net.conv(middle, (4, 6), dead=dead, dead_bias=bias, name="middle"),
        net.conv(stem, (8, 5), name="right"),
    ]
    x = net.node("Relu", net.node("Concat", *parts, axis=1))
    y = net.node("Relu", net.conv(x, (14, 7), kernel=kernel, unread=unread, name="next"))
    return net.model(net.linear(net.node("Flatten", net.node("GlobalMaxPool", y)), (7, 3)))


@pytest.mark.parametrize(("bias", "unread"), [(0.0, []), (0.6, []), (None, list(range(3, 9)))])
def test_branch_of_inception(bias: float | None, unread: list[int]) -> None:
    model = inception(Net(), bias, unread)
    result, operators = apply(model)
    assert taken(result) == 1
    assert operators.count("Conv") == 4
    assert model.graph.initializers["next.weight"].shape == [7, 8, 3, 3]


def test_branch_of_inception_on_maps_of_any_size_leaves_a_padded_channel() -> None:
    model = inception(Net(size="side"), 0.6, [])
    _, operators = apply(model, passes.DEFAULT)
    assert operators.count("Conv") == 4
    assert operators.count("Pad") == 1
    assert model.graph.initializers["next.weight"].shape == [7, 9, 3, 3]


def test_a_whole_group_of_a_reader_may_read_nothing() -> None:
    """A grouped convolution reads nothing but the dead part in one of its groups.

    That group then reads a channel of the other one, through zeros.
    """
    net = Net()
    dead = net.conv("input", (5, 4), dead=range(4), dead_bias=0.5, name="dead")
    x = net.node("Concat", net.conv("input", (5, 4)), dead, axis=1)
    y = net.conv(net.node("Relu", x), (8, 6), group=2, name="grouped")
    model = net.model(y)
    result, operators = apply(model, passes.DEFAULT)
    assert taken(result) == 1
    assert "Split" not in operators
    shapes = {name: value.shape for name, value in model.graph.initializers.items()}
    assert not np.any(model.graph.initializers["grouped.part1.weight"].const_value.numpy())
    assert shapes["grouped.part0.weight"] == [3, 4, 3, 3]
    assert shapes["grouped.part1.weight"] == [3, 1, 3, 3]


def test_parts_of_a_concat_that_is_an_output() -> None:
    net = Net(size="side")
    parts = [net.conv("input", (5, n), dead=range(n), dead_bias=0.3) for n in (2, 3)]
    parts.insert(1, net.conv("input", (5, 4)))
    result, operators = apply(net.model(net.node("Concat", *parts, axis=1)))
    assert taken(result) == 2
    assert operators == ["Conv", "Pad", "Pad"]


def test_different_numbers_in_an_output_are_refused() -> None:
    net = Net()
    dead = net.conv("input", (5, 2), dead=[0, 1])
    model = net.model(net.node("Concat", net.conv("input", (5, 4)), dead, axis=1))
    result, operators = apply(model)
    assert not result.changed
    assert any("different numbers" in note.reason for note in result.notes)
    assert operators == ["Conv", "Conv", "Concat"]


def test_both_halves_of_one_branch() -> None:
    """The dead part is read by another layer too, which would be left without an input."""
    net = Net()
    dead = net.node("Relu", net.conv("input", (5, 6), dead=range(6), dead_bias=0.5, name="a"))
    x = net.node("Concat", net.conv("input", (5, 4), name="b"), dead, axis=1)
    y = net.conv(x, (10, 3), kernel=1, name="c")
    z = net.conv(dead, (6, 3), name="d")
    model = net.model(net.node("Add", y, z))
    result, operators = apply(model)
    assert taken(result) == 1
    assert operators == ["Conv", "Relu", "Conv", "Pad", "Conv", "Conv", "Add"]
    assert model.graph.initializers["d.weight"].shape == [3, 6, 3, 3]


@pytest.mark.parametrize("opset", [13, 20])
def test_constant_result_of_the_network(opset: int) -> None:
    net = Net(opset=opset, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (5, 8), name="a"))
    model = net.model(net.conv(x, (8, 4), dead=range(4), name="b"), net.node("GlobalMaxPool", x))
    result, operators = apply(model)
    assert taken(result) == 1
    assert operators.count("Conv") == 1
    assert "Expand" in operators
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = verify.random_feeds(models.specs(model)[0], 3)
    found = dict(zip([v.name for v in model.graph.outputs], session.run(None, feeds), strict=True))
    assert verify.compare(Evaluator(model).run(feeds), found).passed


def test_a_constant_with_another_border_is_not_folded() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    y = net.node("Relu", net.conv("input", (5, 8), dead=ALL, dead_bias=0.5, name="constant"))
    z = net.conv(y, (8, 8), name="padded")
    result, operators = apply(tail(net, net.node("Add", x, z), 8))
    assert not result.changed
    assert operators.count("Conv") == 4


def test_the_only_operand_that_has_the_size_stays() -> None:
    net = Net()
    dead = net.conv("input", (5, 8), dead=ALL, dead_bias=0.5)
    pooled = net.node("GlobalAveragePool", net.conv("input", (5, 8)))
    model = net.model(net.node("Add", dead, pooled))
    result, _ = apply(model)
    assert not result.changed
    assert any(n.reason == remove_dead_branches.SHAPE for n in result.notes)


def test_maps_of_different_sizes_are_told_apart() -> None:
    """One side may be of length one, and broadcast: the constant side gives the length."""
    net = Net(size="side")
    live = net.conv("input", (5, 8), strides=[9, 9])
    dead = net.conv("input", (5, 8), dead=ALL, dead_bias=0.5)
    result, _ = apply(net.model(net.node("Add", live, dead)))
    assert not result.changed


@pytest.mark.parametrize("bug", ["shape", "numbers", "parts"])
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "shape":
        monkeypatch.setattr(remove_dead_branches, "_determined", lambda *_: True)
        test = test_the_only_operand_that_has_the_size_stays
        with pytest.raises(PassError):
            test()
        return
    if bug == "numbers":
        row = remove_dead_branches._row
        monkeypatch.setattr(remove_dead_branches, "_row", lambda *a: row(*a) + 0.01)
    else:
        target = "prunedeploy.passes.shrink.plan._absorptions"
        monkeypatch.setattr(target, lambda *_: [])
    broken = {
        "numbers": lambda: test_gate_of_squeeze_and_excite(0.7),
        "parts": lambda: apply(inception(Net(), 0.6, [])),
    }
    with pytest.raises(PassError, match="changed the outputs"):
        broken[bug]()
