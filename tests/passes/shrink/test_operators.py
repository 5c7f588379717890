"""Exact shrink through operators that move, repeat, pick and sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import shrink

from prunedeploy.graph import model as models
from prunedeploy.passes import ShrinkChannels
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

DEAD = [0, 1, 6]


def ints(net: Net, *numbers: int) -> str:
    return net.weight(np.array(numbers))


def stem(net: Net, dead: object = DEAD, size: int = 8, bias: float = 0.0) -> str:
    conv = net.conv("input", (5, size), dead=dead, dead_bias=bias, name="a")
    return str(net.node("Relu", conv))


def widths(net: Net, y: str, channels: int = 8) -> dict[str, int]:
    """Cut with a head behind ``y``; a second run changes nothing (the runner asks for that)."""
    return shrink(net.model(net.conv(y, (channels, 3), kernel=1, name="b"))).widths


def expand_beside(net: Net, x: str) -> str:
    # one row of weights for all pixels, and a row of pixels repeated over channels
    row = net.weight(net.random.standard_normal((8, 1, 1)))
    spread = net.node("Expand", row, ints(net, 1, 8, 7, 7))
    return str(net.node("Mul", x, spread))


def expand_over_channels(net: Net, x: str) -> str:
    one = net.conv("input", (5, 1), name="one")
    spread = net.node("Expand", one, ints(net, 1, 8, 1, 1))
    return str(net.node("Mul", x, spread))


def expand_to_computed(net: Net, x: str) -> str:
    batch = net.node("Shape", "input", end=1)
    target = net.node("Concat", batch, ints(net, 8, 7, 7), axis=0)
    spread = net.node("Expand", net.weight(net.random.standard_normal((1, 1, 1, 1))), target)
    filled = net.node("ConstantOfShape", target)
    return str(net.node("Add", net.node("Mul", x, spread), net.node("Cast", filled, to=11)))


def trilu(net: Net, x: str) -> str:
    return str(net.node("Trilu", x, upper=0))


def cumsum(net: Net, x: str) -> str:
    return str(net.node("CumSum", x, net.weight(np.array(2))))


def topk(net: Net, x: str) -> str:
    values, indices = net.node("TopK", x, ints(net, 3), outputs=2, axis=3)
    return str(net.node("Add", values, net.node("Cast", indices, to=11)))


def argmax(net: Net, x: str) -> str:
    return str(net.node("Cast", net.node("ArgMax", x, axis=3), to=11))


def argmin_without_the_axis(net: Net, x: str) -> str:
    least = net.node("Cast", net.node("ArgMin", x, axis=2, keepdims=0), to=11)
    return str(net.node("Unsqueeze", least, ints(net, -1)))


def reverse_sequence(net: Net, x: str) -> str:
    y = net.node("Transpose", x, perm=[2, 3, 0, 1])
    lengths = net.weight(np.array([3, 1, 7, 2, 5, 6, 4]))
    turned = net.node("ReverseSequence", y, lengths, time_axis=0, batch_axis=1)
    return str(net.node("Transpose", turned, perm=[2, 3, 0, 1]))


def lp_pool(net: Net, x: str) -> str:
    return str(net.node("LpPool", x, kernel_shape=[2, 2], p=2))


def global_lp_pool(net: Net, x: str) -> str:
    return str(net.node("GlobalLpPool", x, p=2))


def grid_sample(net: Net, x: str) -> str:
    grid = net.weight(net.random.uniform(-1.2, 1.2, (1, 4, 3, 2)))
    one = net.node("Slice", x, ints(net, 0), ints(net, 1), ints(net, 0))
    return str(net.node("GridSample", one, grid))


def roi_align(net: Net, x: str) -> str:
    boxes = net.weight(np.array([[0.0, 0.0, 4.0, 5.0], [1.0, 2.0, 6.0, 6.0]]))
    images = ints(net, 0, 0)
    return str(net.node("RoiAlign", x, boxes, images, output_height=3, output_width=2))


def gather_elements(net: Net, x: str) -> str:
    rows = net.node("Slice", x, ints(net, 0), ints(net, 1), ints(net, 0))
    indices = net.weight(net.random.integers(-7, 7, (1, 8, 3, 7)))
    return str(net.node("GatherElements", rows, indices, axis=2))


def scatter_elements(net: Net, x: str) -> str:
    rows = net.node("Slice", x, ints(net, 0), ints(net, 1), ints(net, 0))
    indices = net.weight(np.tile(np.array([4, 1])[:, None], (1, 8, 1, 7)))
    updates = net.node("Relu", net.conv("input", (5, 8), dead=DEAD, dead_bias=0.0, name="u"))
    updates = net.node("Slice", updates, ints(net, 0, 0), ints(net, 1, 2), ints(net, 0, 2))
    return str(net.node("ScatterElements", rows, indices, updates, axis=2))


def scatter_nd(net: Net, x: str) -> str:
    y = net.node("Transpose", x, perm=[2, 3, 0, 1])
    y = net.node("Slice", y, ints(net, 0), ints(net, 1), ints(net, 2))
    z = net.node("Relu", net.conv("input", (5, 8), dead=DEAD, dead_bias=0.0, name="u"))
    z = net.node("Transpose", z, perm=[2, 3, 0, 1])
    z = net.node("Slice", z, ints(net, 0, 0, 0), ints(net, 1, 1, 1), ints(net, 0, 1, 2))
    z = net.node("Squeeze", z, ints(net, 0))
    w = net.node("ScatterND", y, net.weight(np.array([[2, 3]])), z)
    return str(net.node("Transpose", w, perm=[2, 3, 0, 1]))


def reflect(net: Net, x: str) -> str:
    return str(net.node("Pad", x, ints(net, 0, 0, 1, 2, 0, 0, 1, 0), mode="reflect"))


def resize_to_sizes(net: Net, x: str) -> str:
    one = net.node("Shape", "input", end=1)
    sizes = net.node("Concat", one, ints(net, 8, 14, 9), axis=0)
    return str(net.node("Resize", x, "", "", sizes, mode="linear"))


def resize_of_named_axes(net: Net, x: str) -> str:
    return str(net.node("Resize", x, "", "", ints(net, 9, 14), mode="nearest", axes=[3, 2]))


def reversed_channels(net: Net, x: str) -> str:
    bounds = [ints(net, *n) for n in ([-1, 5], [-(2**31), 0], [1, 3], [-1, -2])]
    y = net.node("Slice", x, *bounds)
    return str(net.node("Slice", y, ints(net, 9), ints(net, -100), ints(net, 1), ints(net, -1)))


def where(net: Net, x: str) -> str:
    choice = net.weight(net.random.standard_normal((8, 1, 1)) > 0)
    return str(net.node("Where", choice, x, net.weight(np.zeros((1, 1, 1)))))


def slopes(net: Net, x: str) -> str:
    for shape in [(8, 1, 1), (1,), (1, 8, 1, 1), (1, 1, 7)]:
        x = str(net.node("PRelu", x, net.weight(net.random.standard_normal(shape))))
    return x


def variadic(net: Net, x: str) -> str:
    other = net.weight(net.random.standard_normal((1, 8, 1, 1)))
    total = net.node("Mean", x, net.node("Mul", x, other), x)
    return str(net.node("Sum", net.node("Max", total, x), net.node("Min", x, total), x))


def smooth(net: Net, x: str) -> str:
    for operator in ("Celu", "HardSwish", "Mish", "ThresholdedRelu"):
        x = str(net.node(operator, x))
    return x


PASSING = [
    *(expand_beside, expand_over_channels, expand_to_computed, trilu, cumsum, topk, argmax),
    *(argmin_without_the_axis, reverse_sequence, lp_pool, global_lp_pool, grid_sample, roi_align),
    slopes,
    *(gather_elements, scatter_elements, scatter_nd, reflect, resize_to_sizes, where, variadic),
    *(resize_of_named_axes, reversed_channels),
]


@pytest.mark.parametrize("through", PASSING, ids=lambda f: f.__name__)
def test_channels_pass(through: Callable[[Net, str], str]) -> None:
    net = Net(batch=1 if through in (grid_sample, gather_elements, scatter_elements) else "batch")
    y = through(net, stem(net, bias=0.0))
    unread = DEAD if through is not reversed_channels else [7 - d for d in DEAD]
    if through is reversed_channels:
        unread = DEAD  # turned round twice
    found = shrink(net.model(net.conv(y, (8, 3), kernel=1, unread=unread, name="b")))
    assert found.widths["a.weight"] == 5


def test_smooth_functions_and_jumps() -> None:
    net = Net()
    y = smooth(net, stem(net))
    found = shrink(net.model(net.conv(y, (8, 3), kernel=1, unread=DEAD, name="b")))
    assert found.widths["a.weight"] == 5


ZEROS = [trilu, cumsum, lp_pool, global_lp_pool, roi_align, reverse_sequence, reflect, where]


@pytest.mark.parametrize("through", ZEROS, ids=lambda f: f.__name__)
def test_zeros_stay_zeros(through: Callable[[Net, str], str]) -> None:
    net = Net()
    assert widths(net, through(net, stem(net)))["a.weight"] == 5


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixels_of_a_square_go_together(mode: str) -> None:
    net = Net()
    order = np.arange(12).reshape((4, 3) if mode == "DCR" else (3, 4))
    square = order[:, 1] if mode == "DCR" else order[1]
    x = stem(net, [*square.tolist(), 0], size=12)
    found = widths(net, str(net.node("DepthToSpace", x, blocksize=2, mode=mode)), 3)
    assert found == {"a.weight": 8, "b.weight": 3}


def test_space_to_depth_repeats_channels() -> None:
    net = Net(size=6)
    y = net.node("SpaceToDepth", stem(net), blocksize=2)
    assert widths(net, str(y), 32)["a.weight"] == 5


def test_a_dead_pixel_of_a_square_cannot_go_alone() -> None:
    net = Net()
    x = stem(net, [1], size=12)
    assert widths(net, str(net.node("DepthToSpace", x, blocksize=2)), 3)["a.weight"] == 12


def test_tiles_are_cut_with_what_they_copy() -> None:
    net = Net()
    y = net.node("Tile", stem(net), ints(net, 1, 2, 1, 3))
    found = shrink(net.model(net.conv(str(y), (16, 3), kernel=1, unread=[2, 10], name="b")))
    assert found.widths["a.weight"] == 4


@pytest.mark.parametrize("stride", [2, 3, -1, -2])
def test_slices_with_steps(stride: int) -> None:
    net = Net()
    start, end = (1, 2**62) if stride > 0 else (-1, -(2**62))
    y = net.node("Slice", stem(net), *(ints(net, n) for n in (start, end, 1, stride)))
    taken = np.arange(8)[slice(start, None, stride)]
    found = widths(net, str(y), len(taken))
    left = len(set(taken.tolist()) - set(DEAD))
    assert found["a.weight"] == left


def test_slice_of_several_axes_with_uneven_steps() -> None:
    net = Net()
    x = stem(net, [2])
    bounds = [ints(net, *n) for n in ([0, 1], [8, 7], [1, 2], [2, 2])]
    y = net.node("Slice", x, *bounds)
    z = net.conv(x, (8, 4), kernel=1, name="whole")
    model = net.model(net.conv(y, (4, 3), kernel=1, name="b"), z)
    assert shrink(model).widths["a.weight"] == 7
    assert "Gather" in {node.op_type for node in model.graph}


def test_slice_with_computed_bounds_lets_the_other_axes_pass() -> None:
    net = Net()
    end = net.node("Shape", "input", start=2, end=3)
    half = net.node("Div", end, ints(net, 2))
    y = net.node("Slice", stem(net), ints(net, 0), half, ints(net, -1))
    model = net.model(net.conv(y, (8, 3), kernel=1, unread=DEAD))
    cut = next(node for node in model.graph if node.op_type == "Slice")
    cut.outputs[0].shape = ir.Shape(["batch", 8, 7, "half"])
    assert shrink(model).widths["a.weight"] == 5


@pytest.mark.parametrize("operator", ["Slice", "Pad"])
def test_attributes_of_old_opsets(operator: str) -> None:
    net = Net(opset=9)
    if operator == "Slice":
        y = net.node("Slice", stem(net), starts=[1], ends=[100], axes=[-3])
        channels = 7
    else:
        y = net.node("Pad", stem(net), pads=[0, 2, 0, 0, 0, 1, 0, 0], value=0.0)
        channels = 11
    found = widths(net, str(y), channels)
    assert found["a.weight"] == 5


def test_broadcasting_by_attributes_is_opaque() -> None:
    net = Net(opset=6)
    x = net.conv("input", (5, 5), dead=[0, 3], dead_bias=0.0, name="a")
    row = net.weight(net.random.standard_normal(5))
    y = net.node("Add", net.node("Relu", x), row, broadcast=1, axis=1)
    model = net.model(net.conv(str(y), (5, 3), kernel=1, name="b"))
    assert not ShrinkChannels()(model).changed


@pytest.mark.parametrize("form", ["scalar", "table"])
def test_gather_needs_what_it_names(form: str) -> None:
    net = Net()
    index = np.array(4) if form == "scalar" else np.array([[2, -1], [2, 0]])
    x = stem(net, [0])
    picked = net.node("Gather", x, net.weight(index), axis=1)
    if form == "scalar":
        picked = net.node("Unsqueeze", picked, ints(net, -3))
        channels = 1
    else:
        picked = net.node("Reshape", picked, ints(net, 0, 4, 7, 7))
        channels = 4
    found = widths(net, str(picked), channels)
    assert found["a.weight"] == (1 if form == "scalar" else 3)


def test_zero_in_a_target_copies_the_length_of_another_axis() -> None:
    net = Net(channels=5, size=1, batch=1)
    left = net.node("Relu", net.conv("input", (5, 8), 1, dead=DEAD, dead_bias=0.0, name="a"))
    right = net.node("Relu", net.conv("input", (5, 8), 1, dead=[2], dead_bias=0.0, name="c"))
    column = net.node("Reshape", left, ints(net, 1, 8, 1))
    row = net.node("Reshape", right, ints(net, 1, 1, 8))
    # the zero copies the length of the eight in the middle, and holds those at the end
    y = net.node("Reshape", net.node("Mul", column, row), ints(net, 8, 0, 1))
    y = net.node("Transpose", y, perm=[2, 0, 1])
    y = net.node("MatMul", y, net.weight(net.random.standard_normal((8, 4))))
    y = net.node("Transpose", y, perm=[0, 2, 1])
    last = net.random.standard_normal((8, 3))
    last[DEAD] = 0
    y = net.node("MatMul", y, net.weight(last))
    assert shrink(net.model(y)).widths == {"a.weight": 5, "c.weight": 7}


def test_reshape_to_a_target_with_two_dynamic_lengths() -> None:
    net = Net(size="side")
    x = net.node("Transpose", stem(net), perm=[0, 2, 3, 1])
    dims = [net.node("Shape", x, start=s, end=s + 1) for s in range(3)]
    target = net.node("Concat", *dims, ints(net, 2, 4), axis=0)
    y = net.node("Reshape", x, target)
    whole = net.node("Reshape", net.node("Exp", y), net.node("Concat", *dims, ints(net, 8), axis=0))
    z = net.node("Transpose", whole, perm=[0, 3, 1, 2])
    model = net.model(net.conv(str(z), (8, 3), kernel=1, unread=[0, 4, 1, 5], name="b"))
    assert shrink(model).widths["a.weight"] == 4


def test_asking_for_batch_and_space_costs_nothing() -> None:
    net = Net(size="side")
    x = stem(net)
    shape = net.node("Shape", x)
    batch = net.node("Gather", shape, net.weight(np.array(0)))
    parts = [net.node("Unsqueeze", batch, ints(net, 0)), ints(net, 8)]
    space = net.node("Slice", shape, ints(net, 2), ints(net, 4))
    whole = net.node("Mul", *(net.node("Gather", space, ints(net, i)) for i in (0, 1)))
    y = net.node("Reshape", x, net.node("Concat", *parts, whole, axis=0))
    z = net.node("Unsqueeze", y, ints(net, -1))
    found = shrink(net.model(net.conv(str(z), (8, 3), kernel=1, name="b")))
    assert found.widths["a.weight"] in (5, 8)  # unless the product is known, the target is opaque


@pytest.mark.parametrize(
    "equation", ["...chw,kc->...khw", "b...,k...->bk...", "...chw,kc", "bchw,kc->bkhw"]
)
def test_einsum_with_ellipsis(equation: str) -> None:
    net = Net()
    x = stem(net)
    if equation.startswith("b..."):
        y = net.node(
            "Einsum", x, net.weight(net.random.standard_normal((3, 8, 1, 1))), equation=equation
        )
        model = net.model(y)
        assert shrink(model).widths["a.weight"] == 8  # the named axes do not hold the channels
        return
    w = net.weight(net.random.standard_normal((4, 8)))
    model = net.model(net.node("Einsum", x, w, equation=equation))
    assert shrink(model).widths["a.weight"] == 5


OPAQUE = [
    ("NonZero", {}),
    ("Size", {}),
    ("EyeLike", {}),
    ("SequenceConstruct", {}),
    ("Compress", {"axis": 1}),
]


@pytest.mark.parametrize(("operator", "options"), OPAQUE)
def test_what_is_not_known_stays(operator: str, options: dict[str, object]) -> None:
    net = Net(size=1, batch=2)
    x = stem(net)
    source = net.node("Flatten", x) if operator == "EyeLike" else x
    more = [net.weight(np.array([True, False, True]))] if operator == "Compress" else []
    y = net.node(operator, str(source), *more, **options)
    if operator == "SequenceConstruct":
        y = net.node("SequenceAt", y, net.weight(np.array(0)))
    z = net.conv(x, (8, 3), kernel=1, name="b")
    assert shrink(net.model(z, str(y))).widths["a.weight"] == 8


@pytest.mark.parametrize("operator", ["Expand", "Tile", "DepthToSpace", "CumSum", "Trilu"])
def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    """Labels in the wrong order: the numbers must differ, or the model break."""
    net = Net()
    row = OPERATORS[operator]

    def broken(node: ir.Node, axes: object) -> None:
        assert row.couple is not None
        row.couple(node, axes)
        key = (node.outputs[0], 1)
        axes._labels[key] = axes._labels[key][::-1]

    monkeypatch.setitem(
        OPERATORS, operator, replace(row, couple=broken, constants=None, reads=None)
    )
    inputs = {
        "Expand": [ints(net, 1, 8, 1, 1)],
        "Tile": [ints(net, 1, 1, 1, 1)],
        "CumSum": [net.weight(np.array(2))],
    }.get(operator, [])
    options = {"blocksize": 1} if operator == "DepthToSpace" else {}
    y = net.node(operator, stem(net, []), *inputs, **options)
    model = net.model(net.conv(str(y), (8, 3), kernel=1, unread=[0, 2], name="b"))
    feeds = verify.random_feeds(models.specs(model)[0], batch=2)
    before = Evaluator(model).run(feeds)
    assert ShrinkChannels()(model).changed
    assert not verify.compare(before, Evaluator(model).run(feeds)).passed
