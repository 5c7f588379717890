"""Exact shrink, pattern by pattern: what must go is gone, and no output moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import model as models
from prunedeploy import verify
from prunedeploy.evaluate import Evaluator
from prunedeploy.passes import PassError, ShrinkChannels, run
from prunedeploy.passes.shrink import layers
from prunedeploy.types import PassResult


@dataclass
class Shrunk:
    model: ir.Model
    result: PassResult
    widths: dict[str, int]  # weight name -> output channels


def shrink(model: ir.Model, **options: float) -> Shrunk:
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


def test_chain_of_dead_channels() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.0, name="a"))
    found = shrink(tail(net, x, 8))
    assert found.widths == {"a.weight": 5, "tail.weight": 4}
    assert found.result.changed


def test_second_run_and_dense_network_unchanged() -> None:
    net = Net()
    model = tail(net, net.node("Relu", net.conv("input", (5, 8), name="a")), 8)
    assert not shrink(model).result.changed


def test_constant_under_padding_becomes_a_map_that_knows_the_borders() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    found = shrink(tail(net, x, 8))
    assert found.widths["a.weight"] == 5
    assert list(found.model.graph.initializers["tail.weight.borders.Conv_2.borders"].shape) == [
        *(1, 4, 3, 3)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pad": 2},
        {"strides": [2, 2]},
        {"strides": [2, 1], "dilations": [1, 2], "pad": 2},
        {"kernel": 1, "pad": 1},
    ],
)
def test_maps_for_every_window(size: int, attributes: dict[str, object]) -> None:
    net = Net(size=size)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    found = shrink(net.model(net.conv(x, (8, 4), name="b", **attributes)))
    assert found.widths["a.weight"] == 5


def test_maps_of_grouped_and_one_dimensional_convolutions() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[0, 4], dead_bias=0.7, name="a")
    found = shrink(net.model(net.conv(x, (8, 4), group=2, name="b")))
    assert found.widths["a.weight"] == 6
    net = Net(channels=3, size=5)
    line = net.node("Reshape", "input", net.weight(np.array([0, 3, 25])))
    a = net.random.standard_normal((8, 3, 1))
    a[[2, 3]] = 0
    y = net.node("Conv", line, net.weight(a, "a.weight"), net.weight(np.full(8, 0.4)))
    b = net.weight(net.random.standard_normal((4, 8, 5)), "b.weight")
    found = shrink(net.model(net.node("Conv", y, b, auto_pad="SAME_UPPER", strides=[3])))
    assert found.widths["a.weight"] == 6


def test_constants_merge_into_one_channel_where_maps_have_no_fixed_size() -> None:
    net = Net(size="side")
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    found = shrink(tail(net, x, 8))
    assert found.widths["a.weight"] == 6  # five live, one carries the constants of three


def test_constant_becomes_bias_without_padding() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    y = net.conv(x, (8, 4), kernel=1, bias=None, name="b")
    found = shrink(net.model(y))
    assert found.widths == {"a.weight": 5, "b.weight": 4}


def test_constants_flow_through_several_layers() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 3], dead_bias=0.7, name="a"))
    # row 2 of b reads only the constants of a, so it is a constant in turn
    y = net.conv(x, (8, 6), kernel=1, name="b")
    live = [c for c in range(8) if c not in (0, 3)]
    net.weights["b.weight"][2][live] = 0
    found = shrink(net.model(net.conv(net.node("Sigmoid", y), (6, 4), kernel=1, name="c")))
    assert found.widths == {"a.weight": 6, "b.weight": 5, "c.weight": 4}


def test_negative_constant_dies_in_relu() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=-0.7, name="a"))
    assert shrink(tail(net, x, 8)).widths["a.weight"] == 6


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Sigmoid", {}),
        ("HardSwish", {}),
        ("Elu", {"alpha": 0.5}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Gelu", {}),
        ("Softplus", {}),
        ("Tanh", {}),
        ("Exp", {}),
        ("Mish", {}),
        ("Selu", {}),
        ("Celu", {}),
        ("HardSigmoid", {}),
    ],
)
def test_activations_at_constants(operator: str, attributes: dict[str, object]) -> None:
    for size, left in ((7, 5), ("side", 6)):
        net = Net(size=size)
        x = net.conv("input", (5, 8), dead=[1, 4, 6], dead_bias=0.4, name="a")
        found = shrink(tail(net, net.node(operator, x, **attributes), 8))
        assert found.widths["a.weight"] == left
    net = Net(seed=1)
    x = net.conv("input", (5, 8), dead=[1, 4, 6], dead_bias=-0.4, name="a")
    y = net.conv(net.node(operator, x, **attributes), (8, 4), kernel=1, name="b")
    assert shrink(net.model(y)).widths["a.weight"] == 5


def test_unread_channels_go_and_what_feeds_only_them() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), name="a"))
    y = net.node("Relu", net.conv(x, (8, 6), name="b"))
    model = net.model(net.conv(y, (6, 4), unread=[0, 5], name="c"))
    # channels 2 and 3 of a are read by rows 0 and 5 of b alone
    weight = net.weights["b.weight"]
    weight[1:5, 2:4] = 0
    model = net.model(net.nodes[-1].output[0])
    assert shrink(model).widths == {"a.weight": 6, "b.weight": 4, "c.weight": 4}


def residual(
    dead_a: list[int], dead_b: list[int], bias: float = 0.0, size: int | str = "side"
) -> tuple[Net, str]:
    net = Net(size=size)
    x = net.node("Relu", net.conv("input", (5, 8), dead=dead_a, dead_bias=bias, name="stem"))
    y = net.node("Relu", net.conv(x, (8, 6), dead=[0, 2], dead_bias=bias, name="inner"))
    z = net.conv(y, (6, 8), dead=dead_b, dead_bias=bias, name="outer")
    return net, net.node("Relu", net.node("Add", x, z))


@pytest.mark.parametrize("size", [7, "side"])
@pytest.mark.parametrize("bias", [0.0, 0.6])
def test_residual_sum_loses_what_every_branch_lacks(bias: float, size: int | str) -> None:
    net, x = residual([1, 4, 7], [1, 4, 5], bias, size)
    carried = 0 if bias == 0.0 or size == 7 else 1
    found = shrink(tail(net, x, 8))
    assert found.widths["stem.weight"] == found.widths["outer.weight"] == 6 + carried
    assert found.widths["inner.weight"] == 4 + carried
    refused = [note for note in found.result.notes if note.status == "refused"]
    assert refused
    assert any(note.where == "outer" and "joined" in note.reason for note in refused)


def test_cycle_of_unread_channels_through_a_residual_sum() -> None:
    """Stream channel 3 is read by inner channel 0 alone, which writes only stream channel 3."""
    net, x = residual([], [])
    net.weights["inner.weight"][:, 3] = 0
    net.weights["inner.weight"][0] = net.random.standard_normal(
        net.weights["inner.weight"][0].shape
    )
    net.weights["outer.weight"][:, 0] = 0
    net.weights["outer.weight"][3, 0] = 1.0
    y = net.conv(x, (8, 4), unread=[3], name="tail")
    found = shrink(net.model(y))
    assert found.widths == {
        "stem.weight": 7,
        "inner.weight": 4 - 0,  # rows 0 (the cycle) and 2 (dead) of six
        "outer.weight": 7,
        "tail.weight": 4,
    }


def test_concat_keeps_offsets() -> None:
    net = Net()
    a = net.node("Relu", net.conv("input", (5, 6), dead=[0, 2], dead_bias=0.0, name="a"))
    b = net.node("Relu", net.conv("input", (5, 7), dead=[6], dead_bias=0.0, name="b"))
    found = shrink(tail(net, net.node("Concat", a, b, axis=1), 13))
    assert (found.widths["a.weight"], found.widths["b.weight"]) == (4, 6)


@pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_flatten_cuts_features_in_blocks(flatten: str, bias: float) -> None:
    net = Net(size=3)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=bias, name="a"))
    if flatten == "Flatten":
        y = net.node("Flatten", x)
    else:
        y = net.node("Reshape", x, net.weight(np.array([-1, 72]), "shape"))
    found = shrink(net.model(net.linear(y, (72, 4))))
    assert found.widths["a.weight"] == 6
    gemm = next(node for node in found.model.graph if node.op_type == "Gemm")
    assert list(gemm.inputs[1].shape) == [4, 54]


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_depthwise_goes_with_its_input(bias: float) -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), kernel=1, name="expand"))
    y = net.conv(x, (8, 8), group=8, dead=[2, 3, 6], dead_bias=bias, name="depthwise")
    z = net.conv(net.node("Relu", y), (8, 4), kernel=1, name="project")
    found = shrink(net.model(z))
    assert found.widths == {"expand.weight": 5, "depthwise.weight": 5, "project.weight": 4}
    groups = [n.attributes.get_int("group", 1) for n in found.model.graph if n.op_type == "Conv"]
    assert groups == [1, 5, 1]


def test_depthwise_with_multiplier() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 4), dead=[1], dead_bias=0.0, name="a"))
    y = net.conv(x, (4, 8), group=4, bias=None, name="depthwise")
    found = shrink(net.model(net.conv(y, (8, 3), kernel=1, name="b")))
    assert found.widths == {"a.weight": 3, "depthwise.weight": 6, "b.weight": 3}


def test_depthwise_under_a_constant_stays_exact() -> None:
    """The border of a padded depthwise convolution of a constant is no constant."""
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 2], dead_bias=0.5, name="a"))
    y = net.conv(x, (8, 8), group=8, name="depthwise")
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 8


def test_grouped_convolution_loses_the_same_positions_in_every_group() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 4, 5], dead_bias=0.0, name="a"))
    y = net.conv(x, (8, 6), group=2, dead=[1, 4, 5], dead_bias=0.0, name="grouped")
    found = shrink(net.model(net.conv(y, (6, 4), kernel=1, name="b")))
    # 0 and 4 are position 0 of both groups; 5 alone is not; 1 and 4 are position 1 of both
    assert found.widths == {"a.weight": 6, "grouped.weight": 4, "b.weight": 4}


def test_squeeze_and_excite() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a"))
    s = net.node("GlobalAveragePool", x)
    s = net.node("Relu", net.conv(s, (8, 3), kernel=1, dead=[2], dead_bias=0.4, name="down"))
    s = net.node("Sigmoid", net.conv(s, (3, 8), kernel=1, name="up"))
    found = shrink(tail(net, net.node("Mul", x, s), 8))
    assert found.widths["a.weight"] == found.widths["up.weight"] == 6
    assert found.widths["down.weight"] == 2


def test_batch_norm_with_zero_scale_is_a_constant() -> None:
    net = Net()
    x = net.conv("input", (5, 8), bias=None, name="a")
    scale = np.ones(8)
    scale[[2, 5]] = 0
    vectors = [scale, np.full(8, 0.3), net.random.standard_normal(8), np.full(8, 1.7)]
    y = net.node("BatchNormalization", x, *[net.weight(v) for v in vectors])
    found = shrink(net.model(net.conv(net.node("Relu", y), (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 6


def test_option_a_shortcut_pads_fewer_channels() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 4), dead=[2], dead_bias=0.0, name="a"))
    y = net.conv(x, (4, 8), dead=[0, 4, 7], dead_bias=0.0, strides=[2, 2], name="b")
    ends = net.weight(np.array([2**62, 2**62]))
    index = [net.weight(np.array(v)) for v in ([0, 0], [2, 3], [2, 2])]
    cut = net.node("Slice", x, index[0], ends, index[1], index[2])
    pads = net.weight(np.array([0, 2, 0, 0, 0, 2, 0, 0]))
    shortcut = net.node("Pad", cut, pads)
    found = shrink(tail(net, net.node("Relu", net.node("Add", y, shortcut)), 8))
    # 0 and 7 are padding above a dead row; 4 is channel 2 of the shortcut, dead in both
    assert found.widths["b.weight"] == 5
    assert found.widths["a.weight"] == 3


@pytest.mark.parametrize("mode", ["split", "slice", "gather"])
def test_selections_count_again(mode: str) -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    if mode == "split":
        left, right = net.node("Split", x, outputs=2, axis=1, num_outputs=2)
    elif mode == "slice":
        bounds = [net.weight(np.array([v])) for v in (0, 4, 8, 1)]
        left = net.node("Slice", x, bounds[0], bounds[1], bounds[3])
        right = net.node("Slice", x, bounds[1], bounds[2], bounds[3])
    else:
        left = net.node("Gather", x, net.weight(np.array([3, 1, 2, 0])), axis=1)
        right = net.node("Gather", x, net.weight(np.array([4, 7, -2, 5])), axis=1)
    a = net.conv(left, (4, 3), name="left")
    b = net.conv(right, (4, 3), name="right")
    found = shrink(net.model(net.node("Add", a, b)))
    assert found.widths == {"a.weight": 5, "left.weight": 3, "right.weight": 3}


@pytest.mark.parametrize("form", ["scalar", "matrix", "nd"])
def test_gathers_from_another_axis_let_channels_pass(form: str) -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    if form == "nd":
        x = net.node("Transpose", x, perm=[2, 3, 0, 1])
        picked = net.node("GatherND", x, net.weight(np.array([[[0, 1], [2, 3]]])))
        y = net.node("Transpose", picked, perm=[2, 3, 0, 1])
    else:
        index = np.array(2) if form == "scalar" else np.array([[0, 1], [2, 2]])
        y = net.node("Gather", x, net.weight(index), axis=3)
        shape = net.weight(np.array([0, 8, 7, -1]))
        y = net.node("Reshape", y, shape)
    z = net.node("Where", net.weight(np.array(True)), y, net.weight(np.array(0.0)))
    found = shrink(net.model(net.conv(z, (8, 3), kernel=1, name="b")))
    assert found.widths == {"a.weight": 5, "b.weight": 3}


def test_split_of_an_old_opset_keeps_its_attribute() -> None:
    net = Net(opset=11)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[0, 1, 6], dead_bias=0.0, name="a"))
    left, right = net.node("Split", x, outputs=2, axis=1, split=[3, 5])
    a, b = net.conv(left, (3, 3), name="left"), net.conv(right, (5, 3), name="right")
    assert shrink(net.model(net.node("Add", a, b))).widths["a.weight"] == 5


@pytest.mark.parametrize("operator", ["Softmax", "ReduceMean", "LayerNormalization", "odd"])
def test_operators_over_channels_are_walls(operator: str) -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    if operator == "LayerNormalization":
        y = net.node(operator, x, net.weight(np.ones((8, 7, 7))), axis=1)
    elif operator == "ReduceMean":
        y = net.node(operator, x, net.weight(np.array([1])), keepdims=1)
    elif operator == "Softmax":
        y = net.node(operator, x, axis=1)
    else:
        y = net.node("CumSum", x, net.weight(np.array(1)))  # no rule: nothing is known of it
    found = shrink(net.model(y))
    assert not found.result.changed
    refused = [note for note in found.result.notes if note.status == "refused"]
    assert [note.count for note in refused] == [2]


def test_spatial_pad_with_a_number_breaks_constants() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    pads = net.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    padded = net.node("Pad", x, pads, net.weight(np.array(1.0)))
    found = shrink(tail(net, padded, 8))
    assert found.widths["a.weight"] == 8


def test_average_pool_that_counts_its_padding() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    y = net.node("AveragePool", x, count_include_pad=1, **window)
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 8
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    y = net.node("AveragePool", x, **window)
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 6


def test_transposed_convolution() -> None:
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a"))
    w = net.random.standard_normal((8, 6, 2, 2))
    w[:, [0, 3]] = 0
    b = np.zeros(6)
    b[3] = 0.4
    y = net.node("ConvTranspose", x, net.weight(w, "up"), net.weight(b), strides=[2, 2])
    found = shrink(net.model(net.conv(y, (6, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 6
    assert list(found.model.graph.initializers["up"].shape) == [6, 4, 2, 2]


def test_whole_branch_zero_leaves_one_channel() -> None:
    net, x = residual([], list(range(8)))
    found = shrink(tail(net, x, 8))
    assert found.widths["inner.weight"] == 1
    assert found.widths["outer.weight"] == 8


def test_denormals_count_as_zero_and_the_bound_is_stated() -> None:
    net = Net(dtype=np.float32)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a"))
    model = tail(net, x, 8)
    net.weights["a.weight"][[1, 4]] = 1e-41
    model = net.model(net.nodes[-1].output[0])
    feeds = verify.random_feeds(models.specs(model)[0])
    before = Evaluator(model).run(feeds)
    result = ShrinkChannels()(model)
    assert verify.compare(before, Evaluator(model).run(feeds)).passed
    assert model.graph.initializers["a.weight"].shape[0] == 6
    assert any("1.0e-41" in note.reason for note in result.notes)


def test_zero_threshold_goes_further_only_when_asked() -> None:
    def network() -> ir.Model:
        net = Net()
        x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a"))
        tail(net, x, 8)
        net.weights["a.weight"][[1, 4]] = 1e-9
        return net.model(net.nodes[-1].output[0])

    assert not ShrinkChannels()(network()).changed
    assert ShrinkChannels(zero_threshold=1e-8)(network()).changed


def test_shared_weights_are_cut_only_where_every_use_agrees() -> None:
    net = Net()
    a = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    b = net.conv("input", (5, 8), dead=[1], dead_bias=0.0, name="b")
    w = net.weight(net.random.standard_normal((4, 8, 1, 1)), "shared.weight")
    y, z = net.node("Conv", net.node("Relu", a), w), net.node("Conv", net.node("Relu", b), w)
    found = shrink(net.model(net.node("Add", y, z)))
    assert found.widths == {"a.weight": 7, "b.weight": 7, "shared.weight": 4}


def test_shared_weights_with_different_constants_get_biases_of_their_own() -> None:
    net = Net()
    a = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    b = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.9, name="b")
    w = net.weight(net.random.standard_normal((4, 8, 1, 1)), "shared.weight")
    y, z = net.node("Conv", net.node("Relu", a), w), net.node("Conv", net.node("Relu", b), w)
    found = shrink(net.model(net.node("Concat", y, z, axis=1)))
    assert found.widths == {"a.weight": 6, "b.weight": 6, "shared.weight": 4}


def test_matmul_gets_an_addition_for_its_constants() -> None:
    net = Net(size=3)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a"))
    y = net.node("Transpose", x, perm=[0, 2, 3, 1])
    w = net.weight(net.random.standard_normal((8, 6)), "linear")
    z = net.node("MatMul", y, w)
    found = shrink(net.model(net.node("Relu", z), z))
    assert found.widths["a.weight"] == 6
    assert [n.op_type for n in found.model.graph] == [
        "Conv",
        "Relu",
        "Transpose",
        "MatMul",
        "Add",
        "Relu",
    ]


def test_captured_by_a_subgraph_is_out_of_reach() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    from onnx import TensorProto, helper

    def branch(op: str) -> object:
        out = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
        return helper.make_graph([helper.make_node(op, [x], ["y"])], op, [], [out])

    y = net.node(
        "If", net.weight(np.array(True)), then_branch=branch("Relu"), else_branch=branch("Neg")
    )
    assert not ShrinkChannels()(net.model(y)).changed


def _padding_forgotten(node: ir.Node) -> layers.Layer | None:
    found = convolution(node)
    return replace(found, uniform=True) if found is not None else None


convolution = layers.READERS["Conv"]
SHRINK = "prunedeploy.passes.shrink."
BROKEN_TWINS: dict[str, tuple[str, object]] = {
    "constants are dropped": (SHRINK + "plan._absorption", lambda *_: None),
    "nothing is merged": (SHRINK + "edit._merge", lambda _: None),
    "no map is added": (SHRINK + "edit._add_map", lambda *_: None),
    "every row is a constant": (
        SHRINK + "layers.Weights.touching",
        lambda self, layer, channels: np.zeros(len(self.used(layer)), bool),
    ),
    "nobody reads anything": (
        SHRINK + "layers.Weights.needed",
        lambda self, layer, rows: np.zeros(layer.source.shape[1], bool),
    ),
    "sums are not coupled": (
        SHRINK + "axes.Axes.tie",
        lambda self, left, right: None,
    ),
}


@pytest.mark.parametrize("name", BROKEN_TWINS)
def test_broken_twin_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner catches a pass with one of its pieces broken, on networks that need the piece."""
    monkeypatch.setattr(*BROKEN_TWINS[name])

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


def test_broken_twin_that_forgets_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.READERS, "Conv", _padding_forgotten)
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 4, 5], dead_bias=0.7, name="a"))
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(tail(net, x, 8))
