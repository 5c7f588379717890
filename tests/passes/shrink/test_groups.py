"""Grouped convolutions lose different channels in different groups, and whole groups."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import zoo
from net import Net
from resnext import REGIMES, ResNeXt
from shrinking import Shrunk, shrink, tail

from prunedeploy.graph import model as models
from prunedeploy.passes import DEFAULT, PassError, ShrinkChannels, run
from prunedeploy.passes.shrink import groups
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def operators(found: Shrunk) -> dict[str, int]:
    nodes = [node.op_type for node in found.model.graph]
    return {op: nodes.count(op) for op in dict.fromkeys(nodes)}


def grouped(found: Shrunk) -> list[tuple[int, ...]]:
    """Groups, and the weight's shape, of all convolutions but the first and the last."""
    convolutions = [node for node in found.model.graph if node.op_type.startswith("Conv")]
    return [
        (node.attributes.get_int("group", 1), *node.inputs[1].shape[:2])
        for node in convolutions[1:-1]
        if node.op_type != "Concat"
    ]


def sandwich(
    dead_in: list[int],
    dead_out: list[int],
    *,
    widths: tuple[int, int] = (8, 6),
    group: int = 2,
    size: int | str = 7,
    bias: float = 0.0,
    kernel: int = 3,
) -> ir.Model:
    """A dense convolution, a grouped one, a dense one, ReLU between."""
    net = Net(size=size)
    ins, outs = widths
    x = net.conv("input", (5, ins), dead=dead_in, dead_bias=bias, name="a")
    x = net.conv(
        net.node("Relu", x), widths, kernel, group=group, dead=dead_out, dead_bias=bias, name="g"
    )
    return net.model(net.conv(net.node("Relu", x), (outs, 4), name="b"))


def test_the_same_positions_in_every_group_leave_one_convolution() -> None:
    found = shrink(sandwich([0, 5], [1, 4]))
    assert found.widths == {"a.weight": 6, "g.weight": 4, "b.weight": 4}
    assert operators(found) == {"Conv": 3, "Relu": 2}
    assert grouped(found) == [(2, 4, 3)]


def test_unequal_groups_become_convolutions_side_by_side() -> None:
    found = shrink(sandwich([0, 4, 5], [1, 4, 5]))
    assert grouped(found) == [(1, 2, 3), (1, 1, 2)]
    assert operators(found) == {"Conv": 4, "Relu": 2, "Split": 1, "Concat": 1}


@pytest.mark.parametrize(("dead_in", "dead_out"), [([4, 5, 6, 7], []), ([], [3, 4, 5])])
def test_a_dead_group_is_gone(dead_in: list[int], dead_out: list[int]) -> None:
    """Where its inputs are, its outputs hold their biases, which the reader takes over."""
    found = shrink(sandwich(dead_in, dead_out))
    assert found.widths == {"a.weight": 4, "g.weight": 3, "b.weight": 4}
    assert grouped(found) == [(1, 3, 4)]


def test_groups_of_one_width_need_not_be_neighbours() -> None:
    """Their order moves into the rows before and the columns behind."""
    found = shrink(sandwich([0, 9], [], widths=(16, 12), group=4))
    assert grouped(found) == [(2, 6, 3), (2, 6, 4)]
    assert operators(found) == {"Conv": 4, "Relu": 2, "Split": 1, "Concat": 1}


@pytest.mark.parametrize(
    ("bias", "size", "left"), [(0.6, 7, 9), (0.6, "side", 12), (-0.6, 7, 9), (-0.6, "side", 9)]
)
def test_constants_into_groups(bias: float, size: int | str, left: int) -> None:
    """Where maps have a fixed size they take them, else one channel in each of three groups.

    The last group reads constants only. Where the size is known, or they are zero, it reads nothing
    any more; else it stays with one input, to carry its own constants to the next convolution.
    """
    dead = [0, 1, 9, 12, 13, 14, 15]
    found = shrink(sandwich(dead, [], widths=(16, 8), group=4, size=size, bias=bias))
    assert found.widths["a.weight"] == left


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_what_is_added_right_before_the_groups_reaches_them(operator: str) -> None:
    """A map of constants under padding, with no activation between."""
    net = Net()
    x = net.conv("input", (5, 6), dead=[1, 4], dead_bias=0.8, name="a")
    y = net.conv(x, (6, 8), name="b")
    if operator == "Conv":
        z = net.conv(y, (8, 8), group=4, dead=[2], name="g")
    else:
        weights = net.random.standard_normal((8, 2, 2, 2))
        weights[2:4, 1] = 0
        z = net.node(operator, y, net.weight(weights, "g.weight"), strides=[2, 2], group=4)
    found = shrink(net.model(net.conv(z, (8, 4), name="c")))
    assert found.widths["a.weight"] == 4
    assert len(grouped(found)) == 3
    assert "Add" in operators(found)


@pytest.mark.parametrize("dead", [[0], [0, 5], [0, 1]])
def test_groups_right_behind_groups(dead: list[int]) -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[3], dead_bias=0.8, name="a")
    y = net.conv(x, (8, 8), group=4, dead=dead, dead_bias=0.5, name="g")
    z = net.conv(y, (8, 8), group=2, dead=[6], dead_bias=0.4, name="h")
    found = shrink(net.model(net.conv(z, (8, 4), name="b")))
    assert found.widths["a.weight"] < 8
    assert len(grouped(found)) >= 3


def test_order_that_cannot_be_moved_is_gathered() -> None:
    """The image is read as it comes, and the result is the network's."""
    net = Net(channels=8)
    weights = net.random.standard_normal((8, 2, 3, 3))
    x = net.node("Conv", "input", net.weight(weights, "g.weight"), group=4, pads=[1] * 4)
    y = net.conv(x, (8, 8), 1, group=4, dead=[2, 3], dead_bias=0.0, bias=None, name="h")
    z = net.node("Concat", y, "input", axis=1)
    found = shrink(net.model(net.conv(z, (16, 4), unread=[0, 5, 14], name="b")))
    assert "Gather" in operators(found)
    assert found.result.changed


def test_result_with_an_opaque_reader_stays() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[0, 4, 5], dead_bias=0.0, name="a")
    y = net.conv(x, (8, 6), group=2, dead=[1, 4, 5], dead_bias=0.0, name="g")
    y = net.node("LogSoftmax", y, axis=1)
    found = shrink(net.model(net.conv(y, (6, 4), 1, name="b")))
    assert found.widths["a.weight"] == 5
    assert sum(rows for name, rows in found.widths.items() if name.startswith("g.")) == 6
    assert sum(note.count for note in found.result.notes if note.status == "refused") == 3


def test_pointwise_chain_with_vectors_is_reordered() -> None:
    net = Net()
    x = net.conv("input", (5, 12), dead=[0, 1, 9], dead_bias=0.0, name="a")
    x = net.node("PRelu", x, net.weight(net.random.random((12, 1, 1))))
    y = net.conv(x, (12, 12), group=3, dead=[5], dead_bias=0.0, bias=0.3, name="g")
    y = net.node("Mul", y, net.weight(net.random.standard_normal((1, 12, 1, 1))))
    y = net.node("Clip", y, net.weight(np.array(-1.0)), net.weight(np.array(6.0)))
    s = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", y), (12, 12), 1, name="se"))
    y = net.node("AveragePool", net.node("Mul", y, s), kernel_shape=[2, 2])
    found = shrink(net.model(net.linear(net.node("Flatten", y), (12 * 36, 4))))
    assert found.widths["a.weight"] == 9
    assert "Gather" not in operators(found)


def test_depthwise_with_multiplier_loses_single_rows() -> None:
    found = shrink(sandwich([1], [0, 6], widths=(4, 8), group=4))
    assert sorted(grouped(found)) == [(1, 2, 1), (2, 2, 1)]
    assert found.widths["a.weight"] == 3


def test_shuffle_between_grouped_convolutions() -> None:
    net = Net(size=6)
    x = net.conv("input", (5, 12), dead=[0, 1, 9], dead_bias=0.0, name="a")
    x = net.conv(x, (12, 12), 1, group=3, dead=[2, 5, 6], dead_bias=0.0, name="g")
    shape = [net.weight(np.array(s)) for s in ([0, 3, 4, 6, 6], [0, 12, 6, 6])]
    x = net.node("Transpose", net.node("Reshape", x, shape[0]), perm=[0, 2, 1, 3, 4])
    x = net.conv(net.node("Reshape", x, shape[1]), (12, 12), group=12, name="d")
    model = tail(net, net.conv(x, (12, 12), 1, group=3, dead=[4], dead_bias=0.0, name="h"), 12)
    before = zoo.parameters(model)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=7)
    reports = run(model, DEFAULT, feeds)
    (cut,) = (report for report in reports if report.name == "shrink-channels")
    assert cut.difference is not None
    assert cut.difference.max_rel <= 1e-12
    depthwise = [n for n in model.graph if n.op_type == "Conv" and n.inputs[1].shape[1] == 1]
    assert depthwise[0].attributes.get_int("group", 1) == 9
    assert zoo.parameters(model) < before


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
        {"strides": [3, 2], "pads": [0, 1, 2, 0], "dilations": [1, 2]},
        {},
    ],
)
def test_transposed(group: int, bias: float, attributes: dict[str, object]) -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[0, 1, 5], dead_bias=bias, name="a")
    weight = net.random.standard_normal((8, 8 // group, 3, 3))
    given = net.random.standard_normal(8)
    weight[:, :1] = 0
    if group == 2:
        weight[4:, 2] = 0
    if group == 8:
        weight[:] = net.random.standard_normal(weight.shape)
        weight[3] = 0
    inputs = [net.node("Relu", x), net.weight(weight, "t"), net.weight(given)]
    y = net.node("ConvTranspose", *inputs, group=group, **attributes)
    found = shrink(net.model(net.conv(net.node("Relu", y), (8, 4), 1, name="b")))
    rows = found.widths["a.weight"]
    assert rows == (5 if group < 8 else 4)
    (last,) = [n for n in found.model.graph if n.name == "Conv_4"]
    assert last.inputs[1].shape[1] == {1: 7, 2: 5, 8: rows}[group]


def test_transposed_of_unknown_size_merges_constants_by_group() -> None:
    net = Net(size="side")
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 5, 6], dead_bias=0.5, name="a"))
    weight = net.weight(net.random.standard_normal((8, 3, 2, 2)))
    y = net.node("ConvTranspose", x, weight, group=2, strides=[2, 2])
    found = shrink(net.model(net.conv(y, (6, 4), 1, name="b")))
    assert found.widths["a.weight"] == 6


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    net = Net(channels=3, size=4)
    shape = [0, 3, 16] if rank == 1 else [0, 3, 4, 2, 2]
    x = net.node("Reshape", "input", net.weight(np.array(shape)))
    a = net.random.standard_normal((12, 3, *[1] * rank))
    a[[0, 1, 6]] = 0
    g = net.random.standard_normal((9, 4, *[3] * rank))
    g[[4]] = 0
    b = net.random.standard_normal((2, 9, *[1] * rank))
    for name, w, group in (("a", a, 1), ("g", g, 3), ("b", b, 1)):
        pads = [w.shape[-1] // 2] * 2 * rank
        biases = net.random.standard_normal(len(w)) * (name != "a")
        x = net.node(
            "Conv", x, net.weight(w, f"{name}.weight"), net.weight(biases), pads=pads, group=group
        )
    found = shrink(net.model(x))
    assert found.widths["a.weight"] == 9
    assert sorted(grouped(found)) == [(1, 2, 3), (1, 3, 2), (1, 3, 4)]


def test_shared_weights_stay_shared() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[0, 4, 5], dead_bias=0.0, name="a")
    x = net.conv(net.node("Relu", x), (8, 6), group=2, dead=[1, 4, 5], dead_bias=0.0, name="g")
    y = net.node("Conv", net.node("Neg", "input"), "a.weight", "a.bias", pads=[1] * 4)
    y = net.node("Conv", net.node("Relu", y), "g.weight", "g.bias", group=2, pads=[1] * 4)
    found = shrink(net.model(net.conv(net.node("Add", x, y), (6, 4), 1, name="b")))
    rows = {name: rows for name, rows in found.widths.items() if name.startswith("g.")}
    assert sorted(rows.values()) == [1, 2]
    assert found.widths["a.weight"] == 5


@pytest.mark.parametrize("regime", REGIMES)
def test_resnext(regime: str) -> None:
    """All blocks of a ResNeXt, unequal dead channels in every group, against the count by hand."""
    network = ResNeXt(regime, blocks=(1, 1), groups=8, size=16)
    _check(network)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_resnext_50(regime: str) -> None:
    _check(ResNeXt(regime))


def _check(network: ResNeXt) -> None:
    model = network.model
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=7)
    before = Evaluator(model).run(feeds)
    (report,) = run(model, (ShrinkChannels(),), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), tolerance=1e-12).passed
    assert report.result.changed
    assert zoo.parameters(model) == network.attainable


@pytest.mark.parametrize("broken", ["order forgotten", "gathered in another order"])
def test_a_planted_bug_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = groups._Writer.gather
    if broken == "order forgotten":
        monkeypatch.setattr(groups, "reorder", lambda *_: True)
    else:
        monkeypatch.setattr(groups, "reorder", lambda *_: False)
        monkeypatch.setattr(groups._Writer, "gather", lambda w, x, i: gather(w, x, i[::-1]))
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(sandwich([0, 9], [], widths=(16, 12), group=4))


def test_a_shared_weight_reordered_along_both_axes() -> None:
    """A residual layer reads and writes the new order; another, of the same weight, the old one."""
    net = Net(size=5)
    w = net.random.standard_normal((6, 6, 1, 1))
    w[3], w[:, 3] = 0, 0
    shared = net.weight(w, "shared.weight")
    x = net.node("Relu", net.conv("input", (5, 6), name="a"))
    x = net.node("Relu", net.conv(x, (6, 6), 1, group=3, dead=[3], bias=None, name="g"))
    x = net.node("Relu", net.node("Add", x, net.node("Conv", x, shared)))
    other = net.node("Relu", net.conv("input", (5, 6), name="b"))
    other = net.node("Relu", net.node("Conv", other, shared))
    found = shrink(net.model(net.conv(x, (6, 3)), net.conv(other, (6, 3))))
    assert {"Split", "Concat"} <= set(operators(found))


def starved(multiplier: int, size: int | str, bias: float, pad: int = 1) -> ir.Model:
    """A depthwise layer with three dead inputs, whose outputs join live channels."""
    net = Net(size=size)
    a = net.conv("input", (5, 8), dead=[0, 1, 5], dead_bias=bias, name="a")
    wide = 8 * multiplier
    d = net.conv(net.node("Relu", a), (8, wide), group=8, pad=pad, name="d")
    live = net.conv("input", (5, wide), pad=pad, name="live")
    return net.model(net.conv(net.node("Add", d, live), (wide, 3), kernel=1, name="b"))


@pytest.mark.parametrize(
    ("multiplier", "size", "bias", "pad"),
    [(1, "side", 0.0, 1), (1, 7, 0.7, 1), (1, "side", 0.7, 0), (2, "side", 0.0, 1), (2, 7, 0.7, 1)],
)
def test_a_dead_input_of_a_depthwise_layer_goes_though_its_output_is_joined(
    multiplier: int, size: int | str, bias: float, pad: int
) -> None:
    found = shrink(starved(multiplier, size, bias, pad))
    assert found.widths["a.weight"] == 5
    assert found.widths["live.weight"] == 8 * multiplier


def test_a_constant_under_padding_of_a_map_of_any_size_stays() -> None:
    """Neither a bias nor a map can stand for it, and there is no other channel in its group."""
    found = shrink(starved(1, "side", 0.7))
    assert found.widths["a.weight"] == 8
    assert [note.code for note in found.result.notes] == ["carries-constants"]


def test_a_planted_bug_in_what_idle_groups_read_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    gather = groups._Writer.gather
    monkeypatch.setattr(
        groups._Writer, "gather", lambda self, source, at: gather(self, source, at[::-1])
    )
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(starved(1, 7, 0.7))
