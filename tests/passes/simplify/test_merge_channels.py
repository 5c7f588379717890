"""Identical channels: merged where every reader can, by any route; refused where one cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import tail

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import MergeChannels, PassError, ShrinkChannels
from prunedeploy.passes.analysis import value_numbering, value_numbers
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.passes.simplify import merge_channels
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

DISTINCT = 6


def apply(model: ir.Model) -> tuple[int, dict[str, int]]:
    """Merge and cut under the runner; columns added, and the widths left."""
    inputs = models.specs(model)[0]
    feeds = [verify.random_feeds(inputs, batch, seed=7, size=9) for batch in (1, 3)]
    before = [Evaluator(model).run(f) for f in feeds]
    reports = passes.run(model, (MergeChannels(), ShrinkChannels()), feeds[1])
    for given, expected in zip(feeds, before, strict=True):
        assert verify.compare(expected, Evaluator(model).run(given)).passed
    widths = {
        name: value.const_value.shape[0]
        for name, value in model.graph.initializers.items()
        if name.endswith(".weight")
    }
    return sum(note.count for note in reports[0].result.notes), widths


def duplicate(net: Net, name: str, pairs: tuple[tuple[int, int], ...] = ((1, 4), (1, 7))) -> None:
    """Rows of a layer made equal, with their biases."""
    for kept, copy in pairs:
        for part in ("weight", "bias"):
            if f"{name}.{part}" in net.weights:
                net.weights[f"{name}.{part}"][copy] = net.weights[f"{name}.{part}"][kept]


def conv_with_duplicates(
    net: Net, source: str = "input", shape: tuple[int, int] = (5, 8), **given
) -> str:
    y = net.conv(source, shape, name="a", **given)
    duplicate(net, "a")
    return y


def per_channel(net: Net, *copies: tuple[int, int], shape: tuple[int, ...] = (8, 1, 1)) -> str:
    """One number a channel, equal for the duplicates unless told otherwise."""
    array = net.random.uniform(0.5, 1.5, shape)
    for kept, copy in copies or ((1, 4), (1, 7)):
        array[copy] = array[kept]
    return net.weight(array)


def relu(net: Net) -> str:
    return str(net.node("Relu", conv_with_duplicates(net)))


def bias_free(net: Net) -> str:
    return str(net.node("Sigmoid", conv_with_duplicates(net, bias=None)))


def prelu(net: Net) -> str:
    return str(net.node("PRelu", conv_with_duplicates(net), per_channel(net)))


def batch_norm(net: Net) -> str:
    vectors = [per_channel(net, shape=(8,)) for _ in range(4)]
    return str(net.node("BatchNormalization", conv_with_duplicates(net), *vectors))


def pools(net: Net) -> str:
    x = net.node("MaxPool", conv_with_duplicates(net), kernel_shape=[3, 3], pads=[1] * 4)
    return str(net.node("AveragePool", x, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1))


def residual(net: Net) -> str:
    x = conv_with_duplicates(net)
    y = net.conv(net.node("Relu", x), (8, 8), name="b")
    duplicate(net, "b")
    return str(net.node("Add", x, y))


def depthwise(net: Net) -> str:
    x = net.conv(conv_with_duplicates(net), (8, 8), group=8, name="depth")
    duplicate(net, "depth")
    return str(net.node("Relu", x))


def gate(net: Net) -> str:
    x = conv_with_duplicates(net)
    y = net.conv(net.node("GlobalAveragePool", x), (8, 8), kernel=1, name="gate")
    duplicate(net, "gate")
    return str(net.node("Mul", x, net.node("Sigmoid", y)))


def transposed(net: Net) -> str:
    w = net.random.standard_normal((5, 8, 2, 2))
    w[:, [4, 7]] = w[:, [1, 1]]
    return str(net.node("ConvTranspose", "input", net.weight(w, "a"), strides=[2, 2]))


def pad_and_clip(net: Net) -> str:
    x = net.node("Pad", conv_with_duplicates(net), net.weight(np.array([0, 0, 1, 2, 0, 0, 1, 2])))
    return str(net.node("Clip", x, net.weight(np.array(-0.5)), net.weight(np.array(0.5))))


def shuffle(net: Net) -> str:
    order = net.weight(np.array([7, 0, 1, 2, 3, 4, 5, 6]))
    return str(net.node("Gather", conv_with_duplicates(net), order, axis=1))


ROUTES = [relu, bias_free, prelu, batch_norm, pools, residual, depthwise, gate, transposed]
ROUTES += [pad_and_clip, shuffle]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [7, "side"])
def test_duplicates_merge(route: Callable[[Net], str], size: int | str) -> None:
    net = Net(size=size)
    model = tail(net, route(net), 8)
    columns, widths = apply(model)
    assert columns >= 2
    assert model.graph.initializers["tail.weight"].shape[1] == DISTINCT
    assert widths.get("a.weight", DISTINCT) == DISTINCT


def test_duplicates_in_different_branches() -> None:
    net = Net()
    parts = [net.conv("input", (5, 4), name=name) for name in ("a", "b", "c")]
    for part in ("weight", "bias"):
        net.weights[f"b.{part}"][2] = net.weights[f"a.{part}"][1]
    model = tail(net, net.node("Relu", net.node("Concat", *parts, axis=1)), 12)
    columns, widths = apply(model)
    assert columns == 1
    assert widths["a.weight"] + widths["b.weight"] + widths["c.weight"] == 11


def test_flattened_maps() -> None:
    net = Net(size=3)
    x = net.node("Flatten", net.node("Relu", conv_with_duplicates(net)))
    columns, widths = apply(net.model(net.linear(x, (72, 4))))
    assert columns == 18
    assert widths["a.weight"] == 6


def test_matrices() -> None:
    net = Net(channels=6, size=5)
    tokens = net.node("Transpose", net.node("Flatten", "input", axis=2), perm=[0, 1])
    x = net.node("Reshape", tokens, net.weight(np.array([-1, 6, 25])))
    w = net.random.standard_normal((25, 8))
    w[:, 5] = w[:, 2]
    y = net.node("MatMul", x, net.weight(w, "first"))
    z = net.node("Gelu", net.node("Add", y, per_channel(net, (2, 5), shape=(8,))))
    model = net.model(net.node("MatMul", z, net.weight(net.random.standard_normal((8, 3)), "next")))
    columns, _ = apply(model)
    assert columns == 1
    assert model.graph.initializers["next"].shape == [7, 3]


def test_merging_makes_rows_of_readers_equal() -> None:
    """Rows (x, y) and (y, x) over duplicate channels are equal once the columns are added."""
    net = Net()
    x = net.node("Relu", conv_with_duplicates(net))
    y = net.node("Relu", net.conv(x, (8, 6), name="b"))
    weight, bias = net.weights["b.weight"], net.weights["b.bias"]
    weight[3] = weight[0]
    weight[3, [1, 4]] = weight[0, [4, 1]]
    weight[[0, 3], 7] = 0
    bias[3] = bias[0]
    model = tail(net, y, 6)
    _, widths = apply(model)
    assert widths == {"a.weight": 6, "b.weight": 5, "tail.weight": 4}


def test_negative_columns_cancel() -> None:
    net = Net()
    x = net.node("Relu", conv_with_duplicates(net))
    y = net.conv(x, (8, 4), name="b")
    net.weights["b.weight"][:, 4] = -net.weights["b.weight"][:, 1]
    net.weights["b.weight"][:, 7] = 0
    _, widths = apply(net.model(y))
    assert widths["a.weight"] == 5


def other_biases(net: Net) -> ir.Model:
    x = conv_with_duplicates(net)
    net.weights["a.bias"] += np.arange(8)
    return tail(net, net.node("Relu", x), 8)


def other_slopes(net: Net) -> ir.Model:
    return tail(
        net, net.node("PRelu", conv_with_duplicates(net), per_channel(net, (0, 1), (2, 1))), 8
    )


def other_addends(net: Net) -> ir.Model:
    return tail(net, net.node("Add", conv_with_duplicates(net), net.conv("input", (5, 8))), 8)


def other_kernels(net: Net) -> ir.Model:
    return tail(net, net.conv(conv_with_duplicates(net), (8, 8), group=8), 8)


def outputs(net: Net) -> ir.Model:
    x = conv_with_duplicates(net)
    return net.model(net.conv(x, (8, 4)), x)


def grouped_reader(net: Net) -> ir.Model:
    x = conv_with_duplicates(net)
    return net.model(net.conv(x, (8, 4)), net.conv(x, (8, 4), group=2))


def shared_reader(net: Net) -> ir.Model:
    x = conv_with_duplicates(net)
    y = net.conv(x, (8, 4), name="b")
    again = net.node("Conv", net.node("Relu", x), "b.weight", pads=[1] * 4)
    return net.model(net.node("Add", y, again))


def softmax(net: Net) -> ir.Model:
    return tail(net, net.node("Softmax", conv_with_duplicates(net), axis=1), 8)


def other_windows(net: Net) -> ir.Model:
    x = net.conv("input", (5, 4), name="a", dilations=[1, 1])
    y = net.conv("input", (5, 4), name="b", pad=2, dilations=[2, 2])
    for part in ("weight", "bias"):
        net.weights[f"b.{part}"][...] = net.weights[f"a.{part}"]
    return tail(net, net.node("Concat", x, y, axis=1), 8)


REFUSED = [other_biases, other_slopes, other_addends, other_kernels, outputs, grouped_reader]
REFUSED += [shared_reader, softmax, other_windows]


@pytest.mark.parametrize("build", REFUSED)
def test_what_differs_or_cannot_go_stays(build: Callable[[Net], ir.Model]) -> None:
    model = build(Net())
    assert not MergeChannels()(model).changed


def test_one_reader_that_tells_them_apart_keeps_both() -> None:
    net = Net()
    x = conv_with_duplicates(net)
    y = net.node("Mul", x, per_channel(net, (0, 2)))
    model = net.model(net.conv(x, (8, 4)), net.conv(y, (8, 4)))
    assert not MergeChannels()(model).changed


def test_a_recurrent_reader_keeps_both() -> None:
    net = Net(channels=4, size=5)
    x = net.node("Reshape", "input", net.weight(np.array([-1, 4, 25])))
    first = net.random.standard_normal((25, 8))
    first[:, 5] = first[:, 2]
    x = net.node("MatMul", x, net.weight(first))
    weights = [net.weight(net.random.standard_normal((1, 12, n))) for n in (8, 3)]
    y = net.node("LSTM", x, *weights, outputs=1, hidden_size=3)
    z = net.node("MatMul", x, net.weight(net.random.standard_normal((8, 3))))
    assert not MergeChannels()(net.model(y, z)).changed


def test_half_precision_that_cannot_hold_the_sum() -> None:
    net = Net(dtype=np.float16)
    y = net.conv(net.node("Relu", conv_with_duplicates(net)), (8, 4), kernel=1, name="b")
    net.weights["b.weight"][:, [1, 4, 7]] = 4e4
    assert not MergeChannels()(net.model(y)).changed


def test_dead_channels_are_left_to_shrink() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4, 7], dead_bias=0.5, name="a")
    assert not MergeChannels()(tail(net, net.node("Relu", x), 8)).changed


@pytest.mark.parametrize("bug", ["bias", "operand", "attributes", "leader"])
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = {"bias": other_biases, "operand": other_slopes, "attributes": other_windows}
    if bug == "bias":
        monkeypatch.setattr(value_numbering, "bias_rows", lambda found: np.zeros(100))
    elif bug == "operand":
        record = OPERATORS["PRelu"]
        number = record.number
        assert number is not None
        blind = replace(record, number=lambda node, known: number(node, _Blind(known)))
        monkeypatch.setitem(OPERATORS, "PRelu", blind)
    elif bug == "attributes":
        monkeypatch.setattr(value_numbering, "signature", lambda node: node.op_type)
    else:
        add = merge_channels._add
        broken = lambda place, leader, going: add(place, np.roll(leader, 1), going)  # noqa: E731
        monkeypatch.setattr(merge_channels, "_add", broken)
    model = builds.get(bug, lambda net: tail(net, relu(net), 8))(Net())
    with pytest.raises(PassError):
        apply(model)


class _Blind:
    """Knows computed values only: parameters all look alike."""

    def __init__(self, known: value_numbers.ValueNumbers) -> None:
        self._known = known

    def __getattr__(self, name: str) -> object:
        return getattr(self._known, name)

    def of(self, value: ir.Value, axis: int) -> np.ndarray:
        classes = self._known.of(value, axis)
        return classes if value.const_value is None else np.zeros_like(classes)
