"""Initializers that several nodes read: cut apart where storage alone ties them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from net import Net
from onnx import helper
from shrinking import shrink

from prunedeploy.passes import PassError, ShrinkChannels
from prunedeploy.passes.shrink import sharing


def widths(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(v.shape.numpy()) for name, v in model.graph.initializers.items()}


def two_layers(kind: str, *, alike: bool = False, outer: bool = False) -> ir.Model:
    """Two convolutions of 8 channels, with other channels dead, that share a vector."""
    net = Net()
    first, second = ([1, 5, 7], [1, 5, 7] if alike else [3])
    vector = np.zeros(8) if kind == "bias" else np.full((8, 1, 1), 0.25)
    shared = net.weight(vector, "shared")
    x = "input"
    for name, width, dead in (("a", 5, first), ("b", 8, second)):
        if kind == "bias":
            x = net.conv(x, (width, 8), dead=dead, name=name, bias=None)
            net.nodes[-1].input.append(shared)
            x = net.node("Relu", x)
        else:
            x = net.conv(x, (width, 8), dead=dead, dead_bias=0.0, name=name)
            x = net.node("PRelu" if kind == "slope" else "Mul", x, shared)
    y = net.conv(x, (8, 3), name="c")
    return net.model(y, shared) if outer else net.model(y)


@pytest.mark.parametrize("kind", ["bias", "slope", "scale"])
def test_each_reader_gets_its_own_where_they_are_cut_apart(kind: str) -> None:
    found = shrink(two_layers(kind))
    assert found.widths["a.weight"] == 5
    assert found.widths["b.weight"] == 7
    sizes = sorted(size[0] for name, size in widths(found.model).items() if "shared" in name)
    assert sizes == [5, 7]


@pytest.mark.parametrize("kind", ["bias", "slope", "scale"])
def test_what_is_cut_alike_is_stored_once_again(kind: str) -> None:
    found = shrink(two_layers(kind, alike=True))
    assert found.widths["a.weight"] == found.widths["b.weight"] == 5
    assert [size[0] for name, size in widths(found.model).items() if "shared" in name] == [5]


def test_nothing_is_copied_where_nothing_is_cut() -> None:
    net = Net()
    shared = net.weight(np.linspace(0.1, 1, 8), "shared")
    x = "input"
    for name, width in (("a", 5), ("b", 8)):
        x = net.node("Relu", net.conv(x, (width, 8), name=name, bias=None))
        net.nodes[-2].input.append(shared)
    model = net.model(net.conv(x, (8, 3), name="c"))
    before = widths(model)
    assert not ShrinkChannels()(model).changed
    assert widths(model) == before


def test_an_output_is_not_copied() -> None:
    """Its name is part of the interface, and so are all its channels."""
    found = shrink(two_layers("bias", outer=True))
    assert widths(found.model)["shared"] == (8,)


def test_one_node_may_read_a_tensor_several_times() -> None:
    """BatchNormalization whose four parameters are one tensor of ones."""
    net = Net()
    ones = net.weight(np.ones(8), "ones")
    x = net.conv("input", (5, 8), dead=[2], dead_bias=0.0, name="a", bias=None)
    x = net.node("Relu", net.node("BatchNormalization", x, ones, ones, ones, ones))
    model = net.model(net.conv(x, (8, 3), name="c"))
    copies = sharing.separate(model.graph)
    assert [len(others) for _, others in copies] == [3]
    sharing.join(copies)
    assert [name for name in model.graph.initializers if "ones" in name] == ["ones"]
    assert shrink(model).widths["a.weight"] == 7


@pytest.mark.parametrize("kind", ["large", "weights", "number"])
def test_what_stays_stored_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    if kind == "weights":
        w = net.weight(net.random.standard_normal((5, 5, 1, 1)), "w")
        y = net.node("Conv", net.node("Relu", net.node("Conv", "input", w)), w)
        model = net.model(y)
    elif kind == "number":
        half = net.weight(np.full(1, 0.5), "half")
        model = net.model(net.node("Mul", net.node("Mul", "input", half), half))
    else:
        monkeypatch.setattr(sharing, "MAX_COPIED", 7)
        model = two_layers("slope")
    assert sharing.separate(model.graph) == []


def test_the_reason_names_shared_weights() -> None:
    net = Net()
    a = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    b = net.conv("input", (5, 8), dead=[1], dead_bias=0.0, name="b")
    w = net.weight(net.random.standard_normal((4, 8, 1, 1)), "shared.weight")
    y, z = net.node("Conv", net.node("Relu", a), w), net.node("Conv", net.node("Relu", b), w)
    model = net.model(net.node("Add", y, z))
    notes = ShrinkChannels()(model).notes
    refused = {note.where: note.reason for note in notes if note.status == "refused"}
    assert "share shared.weight" in refused["a"]


def dequantised(*, alike: bool = False) -> ir.Model:
    """Two convolutions of integers that share one dequantised bias of zeros."""
    net = Net()
    scale, zeros = net.weight(np.full(8, 0.01)), net.weight(np.zeros(8, np.int32))
    bias, x = net.node("DequantizeLinear", zeros, scale, axis=0), "input"
    for name, width, dead in (("a", 5, [1, 5, 7]), ("b", 8, [1, 5, 7] if alike else [3])):
        integers = net.random.integers(-100, 100, (8, width, 3, 3)).astype(np.int8)
        integers[dead] = 0
        weight = net.node("DequantizeLinear", net.weight(integers, f"{name}.weight"), scale, axis=0)
        x = net.node("Relu", net.node("Conv", x, weight, bias))
    return net.model(net.conv(x, (8, 3), kernel=1, name="c"))


@pytest.mark.parametrize("alike", [True, False])
def test_a_dequantised_bias_that_layers_share_is_cut_apart(alike: bool) -> None:
    found = shrink(dequantised(alike=alike))
    assert found.widths["a.weight"] == 5
    assert found.widths["b.weight"] == (5 if alike else 7)
    operators = [node.op_type for node in found.model.graph]
    assert operators.count("DequantizeLinear") == (3 if alike else 4)


def test_depthwise_weights_stored_once_are_cut_apart() -> None:
    net = Net(size=9)
    kernel = net.weight(np.full((8, 1, 3, 3), 0.2), "kernel")
    x = net.conv("input", (5, 8), dead=[1, 5, 7], dead_bias=0.0, name="a")
    x = net.conv(net.node("Conv", x, kernel, group=8), (8, 8), dead=[3], dead_bias=0.0, name="b")
    found = shrink(net.model(net.conv(net.node("Conv", x, kernel, group=8), (8, 3), name="c")))
    assert found.widths["a.weight"] == 5
    assert found.widths["b.weight"] == 7


def branches(dead: list[int]) -> ir.Model:
    """An If whose branches share a weight and, with the graph around them, a bias of zeros."""
    net = Net()
    bias = net.weight(np.zeros(8), "bias")
    x = net.conv("input", (5, 8), dead=[0, 4], name="a", bias=None)
    net.nodes[-1].input.append(bias)
    x = net.conv(net.node("Relu", x), (8, 8), name="b", bias=None)
    net.nodes[-1].input.append(bias)
    weight = net.random.standard_normal((8, 8, 1, 1))
    weight[dead] = 0
    net.weight(weight, "inner")
    net.weight(net.random.standard_normal((3, 8, 1, 1)), "last")

    def body(name: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Conv", [x, "inner", "bias"], [f"{name}.0"], f"{name}.conv"),
            helper.make_node("Relu" if name == "yes" else "Abs", [f"{name}.0"], [f"{name}.1"]),
            helper.make_node("Conv", [f"{name}.1", "last"], [f"{name}.2"], f"{name}.last"),
        ]
        out = helper.make_tensor_value_info(f"{name}.2", onnx.TensorProto.DOUBLE, None)
        return helper.make_graph(nodes, name, [], [out])

    mean = net.node("ReduceMean", "input", keepdims=0)
    test = net.node("Greater", mean, net.weight(np.array(0.0)))
    return net.model(str(net.node("If", test, then_branch=body("yes"), else_branch=body("no"))))


@pytest.mark.parametrize("dead", [[2, 6, 7], []])
def test_branches_get_their_own_of_what_they_share(dead: list[int]) -> None:
    """What both branches lose alike is stored once again, around them."""
    found = shrink(branches(dead))
    assert found.widths == {"a.weight": 6, "b.weight": 8}
    left = 8 - len(dead)
    stored = widths(found.model)
    assert stored["inner"] == (left, 8, 1, 1)
    assert stored["last"] == (3, left, 1, 1)


def test_a_planted_bug_in_what_is_stored_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_equal", lambda one, other: True)
    with pytest.raises((PassError, ValueError)):
        shrink(dequantised())
