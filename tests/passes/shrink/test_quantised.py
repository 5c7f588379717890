"""Exact shrink of networks in QDQ form: integers, scales and zero points are cut together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import shrink

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.operators import quantised
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

DEAD = [1, 4, 6]


def quantise(net: Net, x: str, scale: float = 0.05, zero: int = 3, kind: type = np.uint8) -> str:
    """Activations, to integers and back."""
    step, offset = net.weight(np.array(scale, np.float32)), net.weight(np.array(zero, kind))
    return str(
        net.node("DequantizeLinear", net.node("QuantizeLinear", x, step, offset), step, offset)
    )


def weight(net: Net, w: np.ndarray, axis: int | None, name: str) -> str:
    """A weight as integers with a scale for each index of ``axis``, or one for all."""
    others = tuple(a for a in range(w.ndim) if a != axis)
    size = np.abs(w).max(axis=others if axis is not None else None)
    scale = np.maximum(size / 127, 1e-3).astype(np.float32)
    along = [1] * w.ndim
    if axis is not None:
        along[axis] = -1
    q = np.clip(np.round(w / scale.reshape(along if axis is not None else ())), -127, 127)
    options = {} if axis is None else {"axis": axis}
    zero = net.weight(np.zeros(scale.shape, np.int8))
    integers = net.weight(q.astype(np.int8), name)
    return str(net.node("DequantizeLinear", integers, net.weight(scale), zero, **options))


def bias(net: Net, b: np.ndarray, name: str) -> str:
    scale = np.float32(1e-3)
    integers = net.weight(np.round(b / scale).astype(np.int32), name)
    return str(net.node("DequantizeLinear", integers, net.weight(np.array(scale))))


def conv(net: Net, x: str, shape: tuple[int, int], name: str, **options: object) -> str:
    ins, outs = shape
    group = int(options.pop("group", 1))
    dead = list(options.pop("dead", ()))
    kernel = int(options.pop("kernel", 3))
    w = net.random.standard_normal((outs, ins // group, kernel, kernel))
    b = net.random.standard_normal(outs)
    w[dead], b[dead] = 0, float(options.pop("dead_bias", 0.0))
    axis = options.pop("axis", 0)
    pads = [kernel // 2] * 4
    inputs = [x, weight(net, w, axis, f"{name}.weight"), bias(net, b, f"{name}.bias")]
    return str(net.node("Conv", *inputs, pads=pads, group=group))


def network() -> Net:
    return Net(dtype=np.float32)


@pytest.mark.parametrize("axis", [0, -4, None])
def test_integers_scales_and_zero_points(axis: int | None) -> None:
    net = network()
    x = quantise(
        net, net.node("Relu", conv(net, quantise(net, "input"), (5, 8), "a", dead=DEAD, axis=axis))
    )
    model = net.model(quantise(net, conv(net, x, (8, 4), "b")))
    found = shrink(model)
    assert found.widths["a.weight"] == 5
    weights = model.graph.initializers
    assert weights["a.bias"].shape == (5,)
    assert weights["a.weight"].dtype == ir.DataType.INT8
    assert weights["b.weight"].shape == (4, 5, 3, 3)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == 3


def test_result_is_still_quantised_after_all_passes() -> None:
    net = network()
    x = quantise(net, net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD)))
    model = net.model(conv(net, x, (8, 4), "b"))
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=2)
    before = Evaluator(model).run(feeds)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(before, Evaluator(model).run(feeds)).passed
    assert model.graph.initializers["a.weight"].const_value.numpy().dtype == np.int8
    assert model.graph.initializers["a.weight"].shape[0] == 5


def test_depthwise_between() -> None:
    net = network()
    x = quantise(net, net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD)))
    y = net.node("Relu", conv(net, x, (8, 8), "deep", group=8, dead=[*DEAD, 0]))
    model = net.model(conv(net, quantise(net, y), (8, 4), "b"))
    assert shrink(model).widths == {"a.weight": 4, "deep.weight": 4, "b.weight": 4}


@pytest.mark.parametrize("axis", [0, 1])
def test_products(axis: int) -> None:
    net = network()
    pooled = net.node("GlobalAveragePool", conv(net, "input", (5, 8), "a", dead=DEAD))
    x = quantise(net, net.node("Flatten", net.node("Relu", pooled)))
    w = net.random.standard_normal((8, 6))
    y = net.node("Relu", net.node("MatMul", x, weight(net, w, axis, "w")))
    model = net.model(net.node("Gemm", y, weight(net, w, axis, "v"), transB=1))
    assert shrink(model).widths["a.weight"] == 5
    assert model.graph.initializers["w"].shape == (5, 6)


def test_a_constant_makes_the_bias_a_float() -> None:
    net = network()
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD, dead_bias=0.7))
    model = net.model(conv(net, x, (8, 4), "b", kernel=1))
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=2)
    before = Evaluator(model).run(feeds)
    passes.run(model, (passes.ShrinkChannels(),), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds)).passed
    assert model.graph.initializers["a.weight"].shape[0] == 5
    last = [node for node in model.graph if node.op_type == "Conv"][-1]
    assert last.inputs[2].dtype == ir.DataType.FLOAT
    assert last.inputs[2].const_value is not None
    assert last.inputs[1].producer().op_type == "DequantizeLinear"


def behind_a_quantiser(dead_bias: float) -> ir.Model:
    net = network()
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD, dead_bias=dead_bias))
    return net.model(conv(net, quantise(net, x), (8, 4), "b", kernel=1))


@pytest.mark.parametrize("dead_bias", [0.7, 0.72, 0.774, -0.4, 100.0])
def test_a_quantised_constant_is_its_step(dead_bias: float) -> None:
    """In steps of 0.05; below zero ReLU comes first, 100 is beyond the largest step."""
    model = behind_a_quantiser(dead_bias)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=2)
    before = Evaluator(model).run(feeds)
    passes.run(model, (passes.ShrinkChannels(),), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds)).passed
    assert model.graph.initializers["a.weight"].shape[0] == 5
    assert model.graph.initializers["b.weight"].const_value.numpy().dtype == np.int8


@pytest.mark.parametrize("dead_bias", [0.725, 0.775, 5.025])
def test_a_constant_in_the_middle_of_two_steps_is_not_known(dead_bias: float) -> None:
    """Float32 may round it to either."""
    assert shrink(behind_a_quantiser(dead_bias)).widths["a.weight"] == 8


def test_a_step_that_is_off_by_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = quantised._scaled

    def one_more(node: ir.Node, facts: Facts) -> Iterator[tuple[object, ...]]:
        more = node.op_type == "QuantizeLinear"
        return ((axis, x + s * more, s, zero) for axis, x, s, zero in right(node, facts))

    monkeypatch.setattr(quantised, "_scaled", one_more)
    model = behind_a_quantiser(0.7)
    feeds = verify.random_feeds(models.specs(model)[0], batch=2, seed=2)
    with pytest.raises(passes.PassError, match="changed the outputs"):
        passes.run(model, (passes.ShrinkChannels(),), feeds)


def test_merging_into_a_channel_is_refused() -> None:
    """Maps of unknown size and padding: a float weight would carry the constants, integers not."""
    net = Net(size="side", dtype=np.float32)
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD, dead_bias=0.7))
    assert shrink(net.model(conv(net, x, (8, 4), "b"))).widths["a.weight"] == 8


def test_scales_along_the_channels_of_activations() -> None:
    net = network()
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD))
    step = net.weight(net.random.uniform(0.02, 0.1, 8).astype(np.float32))
    zero = net.weight(np.arange(8).astype(np.uint8), "zero")
    q = net.node("QuantizeLinear", x, step, zero, axis=-3)
    y = net.node("DequantizeLinear", q, step, zero, axis=1)
    model = net.model(conv(net, y, (8, 4), "b"))
    assert shrink(model).widths["a.weight"] == 5
    assert model.graph.initializers["zero"].const_value.numpy().tolist() == [0, 2, 3, 5, 7]


def test_blocks_of_scales_are_opaque() -> None:
    net = Net(dtype=np.float32, opset=21)
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    w = net.weight(net.random.integers(-9, 9, (8, 4)).astype(np.int8))
    step = net.weight(np.full((4, 4), 0.1, np.float32))
    y = net.node("MatMul", pooled, net.node("DequantizeLinear", w, step, axis=0, block_size=2))
    assert shrink(net.model(y)).widths["a.weight"] == 8


def test_normalisation_is_not_folded_into_integers() -> None:
    net = network()
    x = conv(net, "input", (5, 8), "a", dead=DEAD)
    vectors = [net.weight(net.random.uniform(0.5, 1.5, 8).astype(np.float32)) for _ in range(4)]
    model = net.model(net.node("BatchNormalization", x, *vectors))
    found = passes.FoldBatchNorm()(model)
    assert not found.changed
    assert "quantised" in found.notes[0].reason


def test_integer_operators_are_opaque() -> None:
    net = network()
    x = net.node("Relu", conv(net, "input", (5, 8), "a", dead=DEAD))
    q, step, zero = net.node("DynamicQuantizeLinear", x, outputs=3)
    w = net.weight(net.random.integers(-9, 9, (4, 8, 1, 1)).astype(np.int8))
    y = net.node("Mul", net.node("Cast", net.node("ConvInteger", q, w, zero), to=1), step)
    found = shrink(net.model(y))
    assert found.widths["a.weight"] == 8
    assert any("DynamicQuantizeLinear" in note.reason for note in found.result.notes)


def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero taken for zero where the quantiser has an offset: the zero point must be known."""

    def ones(node: ir.Node, index: int, axis: int, facts: object) -> np.ndarray:
        return np.ones(node.outputs[0].shape[axis])

    model = offset_quantiser()
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    (report,) = passes.run(model, (passes.ShrinkChannels(),), feeds)
    assert report.result.changed
    monkeypatch.setattr(quantised, "_parameter", ones)
    with pytest.raises(passes.PassError, match="changed the outputs"):
        passes.run(offset_quantiser(), (passes.ShrinkChannels(),), feeds)


def offset_quantiser() -> ir.Model:
    """Dead channels behind a quantiser whose zero point is not zero."""
    net = network()
    step, zero = net.weight(np.array(0.05, np.float32)), net.weight(np.array(3, np.uint8))
    w = net.random.standard_normal((8, 5, 1, 1)).astype(np.float32)
    w[DEAD] = 0
    x = net.node("Conv", "input", net.weight(w, "a.weight"))
    q = net.node("Cast", net.node("QuantizeLinear", net.node("Relu", x), step, zero), to=1)
    return net.model(conv(net, str(q), (8, 4), "b", kernel=1))
