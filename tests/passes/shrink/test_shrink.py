"""Exact shrink, pattern by pattern: what must go is gone, and no output moves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import residual, shrink, tail

from prunedeploy.graph import model as models
from prunedeploy.passes import ShrinkChannels, run
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


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


@pytest.mark.parametrize(("size", "left"), [(7, 6), ("side", 8)])
def test_depthwise_under_a_constant_stays_exact(size: int | str, left: int) -> None:
    """A padded depthwise convolution makes a constant a map, known where its size is."""
    net = Net(size=size)
    x = net.node("Relu", net.conv("input", (5, 8), dead=[1, 2], dead_bias=0.5, name="a"))
    y = net.conv(x, (8, 8), group=8, name="depthwise")
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == left


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


@pytest.mark.parametrize("operator", ["Softmax", "LRN", "odd"])
def test_operators_over_channels_are_opaque(operator: str) -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    if operator == "LRN":
        y = net.node(operator, x, size=3)
    elif operator == "Softmax":
        y = net.node(operator, x, axis=1)
    else:
        y = net.node("CumSum", x, net.weight(np.array(1)))  # no rule: nothing is known of it
    found = shrink(net.model(y))
    assert not found.result.changed
    refused = [note for note in found.result.notes if note.status == "refused"]
    assert [note.count for note in refused] == [2]


@pytest.mark.parametrize(("size", "left"), [(7, 6), ("side", 8)])
def test_spatial_pad_with_a_number_breaks_constants(size: int | str, left: int) -> None:
    net = Net(size=size)
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    pads = net.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    padded = net.node("Pad", x, pads, net.weight(np.array(1.0)))
    found = shrink(tail(net, padded, 8))
    assert found.widths["a.weight"] == left


def test_values_of_a_map_have_a_type(caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    found = shrink(net.model(net.conv(x, (8, 4), name="b")))
    assert [node.op_type for node in found.model.graph].count("Gather") == 2
    # what is written to infer shapes with would say so of a value that has none
    assert "is not known" not in caplog.text


@pytest.mark.parametrize(
    ("constant", "dtype", "left"),
    [(0.0, np.float32, 5), (0.7, np.float32, 5), (30.0, np.float32, 6), (30.0, np.float64, 5)],
)
def test_instance_norm_of_a_constant_or_of_scale_zero_is_its_bias(
    constant: float, dtype: type, left: int
) -> None:
    net = Net(dtype=dtype)
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=constant, name="a")
    scale, bias = net.random.standard_normal((2, 8))
    scale[[1, 2]] = 0.0
    y = net.node("InstanceNormalization", x, net.weight(scale), net.weight(bias))
    model = net.model(net.conv(y, (8, 4), kernel=1, name="b"))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    run(model, (ShrinkChannels(),), feeds)
    # the mean of a large constant is off by what the norm makes a part of the outputs
    assert model.graph.initializers["a.weight"].shape[0] == left


def test_a_map_of_constants_that_is_normalised_is_a_map() -> None:
    """Constants meet the padding of a convolution: what reads no other channel is a known map."""
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    weight = net.random.standard_normal((8, 8, 3, 3))
    weight[2, [0, 2, 3, 5, 6, 7]] = 0
    x = net.node("Conv", x, net.weight(weight, "b.weight"), pads=[1, 1, 1, 1])
    scale, bias = net.random.standard_normal((2, 8))
    y = net.node("InstanceNormalization", x, net.weight(scale), net.weight(bias))
    found = shrink(net.model(net.conv(y, (8, 4), name="c")))
    assert found.widths["a.weight"] == 6
    assert found.widths["b.weight"] == 7


@pytest.mark.parametrize(("size", "left"), [(7, 6), ("side", 8)])
def test_average_pool_that_counts_its_padding(size: int | str, left: int) -> None:
    net = Net(size=size)
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    y = net.node("AveragePool", x, count_include_pad=1, **window)
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == left
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
