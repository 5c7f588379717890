"""Exact shrink beside what it cannot cut: every network here once broke the pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Weights
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def shrink(model: ir.Model) -> ir.Model:
    """All passes; outputs the same in float64, and the result loads in ONNX Runtime."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7, size=8)
    before = Evaluator(model).run(feeds)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed
    assert_names_are_unique(model)
    return model


def assert_names_are_unique(model: ir.Model) -> None:
    names = [node.name for node in model.graph if node.name]
    values = [v.name for node in model.graph for v in node.outputs]
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)


def dead(net: Net, size: int = 8, bias: float = 0.0, name: str = "a") -> str:
    return net.conv("input", (5, size), dead=[1, 4], dead_bias=bias, name=name)


def width(model: ir.Model, name: str = "a.weight") -> int:
    return int(model.graph.initializers[name].shape[0])


def reflect_pad(net: Net) -> str:
    pads = net.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return str(net.node("Pad", "input", pads, mode="reflect"))


def computed_reshape(net: Net) -> str:
    whole = net.node("Shape", "input")
    return str(net.node("Reshape", net.node("Relu", "input"), net.node("Identity", whole)))


@pytest.mark.parametrize("beside", [reflect_pad, computed_reshape])
def test_opaque_operators_beside_a_cut(beside: Callable[[Net], str]) -> None:
    net = Net(size="side")
    y = net.conv(net.node("Relu", dead(net)), (8, 4), kernel=1, name="b")
    model = shrink(net.model(y, net.node("Exp", beside(net))))
    assert width(model) == 6


def test_resize_to_the_size_of_another_map() -> None:
    net = Net(size="side")
    low = net.node("MaxPool", net.node("Relu", dead(net)), kernel_shape=[2, 2], strides=[2, 2])
    shapes = net.node("Shape", low, end=2), net.node("Shape", "input", start=2)
    up = net.node("Resize", low, "", "", net.node("Concat", *shapes, axis=0))
    model = shrink(net.model(net.conv(up, (8, 4), kernel=1, name="b")))
    assert width(model) == 6


def test_two_products_in_a_row_with_constants() -> None:
    net = Net(size=3)
    x = net.node("Relu", dead(net, bias=0.7))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    for columns in (6, 5):
        w = net.random.standard_normal((8 if columns == 6 else 6, columns))
        x = net.node("MatMul", x, net.weight(w))
    model = shrink(net.model(net.linear(x, (5, 3), unread=[0, 2])))
    assert width(model) == 6


def test_a_second_cut_of_the_same_layers_finds_free_names() -> None:
    net = Net(size=5, dtype=np.float32)
    x = net.node("Relu", dead(net, bias=0.7))
    y = net.node("Relu", net.conv(x, (8, 6), name="b"))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", y))
    z = net.node("MatMul", pooled, net.weight(net.random.standard_normal((6, 3)), "c"))
    model = net.model(z)
    feeds = verify.random_feeds(models.specs(model)[0])
    for row in (0, 2):
        for name, value in (("a.weight", 0.0), ("b.weight", 0.0)):
            weight = model.graph.initializers[name]
            array = weight.const_value.numpy().copy()
            array[row] = value
            weight.const_value = ir.tensor(array, name=name)
        passes.run(model, passes.DEFAULT, feeds)
        assert_names_are_unique(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, feeds)
    assert verify.compare(Evaluator(model).run(feeds), {z: found}).passed


@pytest.mark.parametrize("operator", ["MaxPool", "Dropout"])
def test_second_results_that_are_read_keep_the_source_whole(operator: str) -> None:
    net = Net()
    options = {"kernel_shape": [2, 2]} if operator == "MaxPool" else {}
    y, extra = net.node(operator, net.node("Relu", dead(net)), outputs=2, **options)
    model = net.model(net.conv(y, (8, 4), kernel=1, name="b"), extra)
    if operator == "MaxPool":
        assert width(shrink(model)) == 8
    else:
        assert passes.RemoveIdentity()(model).changed is False
        assert not passes.ShrinkChannels()(model).changed


def test_addend_that_is_no_row() -> None:
    net = Net(channels=5, size=1, batch=4)
    x = net.node("Flatten", net.node("Relu", dead(net)))
    column = net.weight(net.random.standard_normal((4, 1)))
    y = net.node("Gemm", x, net.weight(net.random.standard_normal((8, 4))), column)
    model = net.model(net.linear(y, (4, 3), unread=[0]))
    feeds = verify.random_feeds(models.specs(model)[0])
    before = Evaluator(model).run(feeds)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed
    assert width(model) == 6
    assert [4, 1] in [list(v.shape or ()) for v in model.graph.initializers.values()]


def test_squeeze_without_axes_keeps_what_it_could_drop() -> None:
    net = Net(size=1, batch=2)
    x = net.conv("input", (5, 3), dead=[0, 2], dead_bias=0.0, name="a")
    y = net.node("Squeeze", net.node("Relu", x))
    model = shrink(net.model(net.linear(y, (3, 2))))
    assert width(model) == 3


def test_operand_of_unknown_length_holds_the_other() -> None:
    net = Net()
    bounds = [net.weight(np.array([v])) for v in (0, 8, 1, 1)]
    other = net.conv("input", (5, 8), name="b")
    end = net.node("Identity", net.node("Shape", other, start=1, end=2))
    part = net.node("Slice", other, bounds[0], end, bounds[2], bounds[3])
    total = net.node("Add", net.node("Relu", dead(net)), part)
    shrink(net.model(net.conv(total, (8, 4), unread=[1, 4], name="c")))


def test_resize_that_mixes_channels_is_no_passage() -> None:
    net = Net()
    scales = net.weight(np.array([1, 1.1, 2, 1], np.float32))
    net.weights[scales] = net.weights[scales].astype(np.float32)
    y = net.node("Resize", net.node("Relu", dead(net)), "", scales, mode="linear")
    assert width(shrink(net.model(net.conv(y, (8, 4), name="b")))) == 8


def test_weight_that_is_an_output_is_not_rewritten() -> None:
    net = Net()
    x = net.conv("input", (5, 4), name="a")
    vectors = [net.weight(net.random.uniform(0.5, 1.5, 4)) for _ in range(4)]
    model = net.model(net.node("BatchNormalization", x, *vectors))
    model.graph.outputs.append(model.graph.initializers["a.weight"])
    assert not passes.FoldBatchNorm()(model).changed


def test_row_that_is_small_all_over_is_no_dead_row() -> None:
    net = Net()
    model = net.model(net.node("Mul", dead(net), net.weight(np.array(1e18))))
    net.weights["a.weight"][0] *= 1e-18
    model = net.model(net.nodes[-1].output[0])
    shrink(model)


def test_jumps_are_not_taken_as_known() -> None:
    net = Net()
    x = net.node("Floor", dead(net, bias=3.0))
    assert width(shrink(net.model(net.conv(x, (8, 4), kernel=1, name="b")))) == 8


def test_infinite_bounds_are_no_broken_weights(tmp_path: object) -> None:
    net = Net()
    x = net.node("Clip", dead(net, bias=0.5), "", net.weight(np.array(np.inf)))
    assert width(shrink(net.model(net.conv(x, (8, 4), kernel=1, name="b")))) == 6


def test_rounding_of_an_ill_conditioned_network_is_not_taken_for_a_mistake() -> None:
    """Large constants are taken off again by a norm: float32 keeps few digits, float64 enough."""
    net = Net(channels=5, size=7, dtype=np.float32)
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=3000.0, kernel=1, name="a")
    flat = net.conv(x, (8, 6), kernel=1, name="b")
    given = [net.weight(np.ones(6)), net.weight(np.zeros(6))]
    y = net.node("InstanceNormalization", flat, *given)
    model = net.model(y)
    feeds = verify.random_feeds(models.specs(model)[0])
    (report,) = passes.run(model, (passes.ShrinkChannels(),), feeds)
    assert report.difference is not None
    assert report.difference.passed
    assert report.difference.where.endswith("(in float64)")


def test_beside_an_infinite_weight_nothing_counts_as_zero() -> None:
    net = Net()
    y = dead(net)
    net.weights["a.weight"][2, 0, 1, 1] = np.inf
    net.weights["a.weight"][3, 0, 1, 1] = np.nan
    (found,) = layers_of(net.model(y).graph)
    used = Weights(Zero()).used(found)
    assert used[2].all()
    assert used[3].all()
    assert not used[1].any()


def test_layer_without_any_weight() -> None:
    net = Net(size=8)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", dead(net)))
    none = net.node("MatMul", pooled, net.weight(np.zeros((8, 0))))
    nothing = net.node("MatMul", none, net.weight(np.zeros((0, 3))))
    model = shrink(net.model(net.node("Add", nothing, net.linear(pooled, (8, 3)))))
    assert [node.op_type for node in model.graph].count("Conv") == 1


def test_joined_with_a_part_that_is_empty() -> None:
    net = Net(size=8)
    x = dead(net)
    nothing = net.node("Slice", x, *(net.weight(np.array([n])) for n in (0, 0, 1)))
    y = net.conv(net.node("Concat", x, nothing, axis=1), (8, 4), kernel=1, name="b")
    assert width(shrink(net.model(y, nothing))) == 6
