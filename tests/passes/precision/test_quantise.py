"""int8: scales, what is refused, what it costs, and the budget that it may cost."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from net import Net

from prunedeploy import passes
from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.models import by_name
from prunedeploy.passes.opset import LowerOpset
from prunedeploy.passes.precision import quantise
from prunedeploy.passes.precision.quantise import Quantise, channel_scales
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

Feeds = dict[str, np.ndarray]


def in_ort(model: ir.Model, feeds: Feeds) -> Feeds:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    # the pairs as they stand: its own int8 kernels may round sums in another order
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def cost(result: PassResult) -> float:
    (note,) = (note for note in result.notes if note.status == "info")
    return note.figures["max_rel"]


def count(model: ir.Model, op: str) -> int:
    return sum(node.op_type == op for node in model.graph)


def mixed() -> ir.Model:
    """A convolution, a grouped one, a Gemm either way round and a MatMul."""
    net = Net(channels=4, size=6, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (4, 8), name="first"))
    x = net.node("Relu", net.conv(x, (8, 8), group=4, name="grouped"))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    x = net.node("Relu", net.linear(x, (8, 12)))
    w = net.random.standard_normal((12, 9))
    x = net.node("MatMul", x, net.weight(w, "matrix"))
    return net.model(net.node("Gemm", x, net.weight(net.random.standard_normal((9, 5)), "last")))


@pytest.fixture
def feeds() -> Feeds:
    return verify.random_feeds(models.specs(mixed())[0], batch=16)


def test_all_layers_and_what_it_costs(feeds: Feeds) -> None:
    model = mixed()
    expected = Evaluator(model).run(feeds)
    (report,) = passes.run(model, [Quantise(feeds)], feeds)
    assert report.result.notes[0].count == 5
    assert (count(model, "QuantizeLinear"), count(model, "DequantizeLinear")) == (5, 10)
    found = verify.compare(expected, in_ort(model, feeds), 0.1)
    assert found.passed
    assert found.max_rel > 1e-4
    assert cost(report.result) == pytest.approx(found.max_rel, rel=0.3)
    int8 = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert len([v for v in int8 if v.shape is not None and len(v.shape)]) == 5
    floats = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert all(v.shape is not None and len(v.shape) < 2 for v in floats)
    assert not Quantise(feeds)(model).changed


def test_a_network_at_an_old_opset() -> None:
    torch.manual_seed(0)
    model = to_model(by_name("resnet20").factory().eval(), (1, 3, 32, 32))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    expected = Evaluator(model).run(feeds)
    assert Quantise(feeds)(model).changed
    assert LowerOpset(13, 7)(model).changed
    assert verify.compare(expected, in_ort(model, feeds), 0.1).passed
    assert models.weight_bytes(model) < 1.2 * 272_474


def test_scales_are_those_of_the_largest_weight_of_each_channel() -> None:
    weight = np.array([[[1.0, -2.0]], [[0.0, 0.0]], [[127.0, 0.5]]], np.float32)
    np.testing.assert_allclose(channel_scales(weight, 0), [2 / 127, 1, 1])
    np.testing.assert_allclose(channel_scales(weight, 2), [1, 2 / 127])


def test_rare_large_values_are_clipped(feeds: Feeds) -> None:
    array = np.random.default_rng(0).standard_normal(100_000)
    assert quantise._scale(array) < np.abs(array).max() / 127
    assert quantise._scale(np.array([-3.0, 3.0])) == pytest.approx(3 / 127)
    assert quantise._scale(np.zeros(4)) == 1.0


def test_refusals(feeds: Feeds) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,4] x, float[4,4] w) => (float[N,4] y) <float[4,4] v = {
        1,2,3,4, 1,2,3,4, 1,2,3,4, 1,2,3,4}> {
        [computed] a = MatMul(x, w)
        [asked] b = MatMul(a, v)
        [constant] c = MatMul(v, v)
        [taken] d = MatMul(b, v)
        y = MatMul(d, c)
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    given = verify.random_feeds(models.specs(model)[0], batch=4)
    result = Quantise(given, frozenset({"asked"}))(model)
    reasons = {note.where: note.reason for note in result.notes if note.status == "refused"}
    assert reasons.pop("computed") == "its weights are computed"
    assert reasons.pop("asked") == "asked for"
    assert reasons.pop("constant") == "what it reads is constant or transposed"
    assert list(reasons.values()) == ["its weights are computed"]
    assert count(model, "QuantizeLinear") == 1
    old = mixed()
    assert LowerOpset(11)(old).changed
    assert "opset 11 has no scales" in Quantise(feeds)(old).notes[0].reason


def test_a_budget_keeps_the_worst_layers(feeds: Feeds) -> None:
    free = Quantise(feeds)(mixed())
    budget = cost(free) / 2
    model = mixed()
    result = Quantise(feeds, budget=budget)(model)
    assert result.changed
    assert cost(result) <= budget
    refused = [note for note in result.notes if note.status == "refused"]
    assert 0 < len(refused) < 5
    nothing = mixed()
    assert not Quantise(feeds, budget=0.0)(nothing).changed
    assert count(nothing, "QuantizeLinear") == 0


def test_one_value_for_two_layers_is_quantised_once() -> None:
    net = Net(channels=4, size=4, dtype=np.float32)
    left, right = net.conv("input", (4, 4), name="a"), net.conv("input", (4, 4), name="b")
    model = net.model(net.node("Add", left, right))
    given = verify.random_feeds(models.specs(model)[0], batch=2)
    assert Quantise(given)(model).changed
    assert (count(model, "QuantizeLinear"), count(model, "DequantizeLinear")) == (1, 3)


def test_a_planted_bug_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scale for all channels, where one channel is a hundred times the others."""

    def uneven() -> ir.Model:
        net = Net(channels=4, size=4, dtype=np.float32)
        x = net.conv("input", (4, 8), name="first", bias=None)
        net.weights["first.weight"][0] *= 100
        even = net.weight(np.array([0.01] + [1.0] * 7).reshape(1, 8, 1, 1))
        return net.model(net.node("Mul", x, even))

    given = verify.random_feeds(models.specs(uneven())[0], batch=4)
    good = cost(Quantise(given)(uneven()))

    def one(weight: np.ndarray, axis: int) -> np.ndarray:
        return np.full(weight.shape[axis], np.abs(weight).max() / 127, np.float32)

    monkeypatch.setattr(quantise, "channel_scales", one)
    assert cost(Quantise(given)(uneven())) > 5 * good
