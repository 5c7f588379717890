"""Constant folding, BatchNorm folding, identity removal: change, idempotence, refusal, numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes import FoldBatchNorm, FoldConstants, Pass, PassError, RemoveIdentity, run
from prunedeploy.passes.simplify import fold_batchnorm as folding
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def apply(model: ir.Model, each: Pass) -> tuple[PassResult, list[str]]:
    """Under the runner; the outputs may move by float64 rounding only."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    before = Evaluator(model).run(feeds)
    (report,) = run(model, (each,), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed
    return report.result, [node.op_type for node in model.graph]


def batch_norm(net: Net, x: str, width: int) -> str:
    vectors = [net.random.uniform(0.5, 1.5, width) for _ in range(4)]
    return str(net.node("BatchNormalization", x, *[net.weight(v) for v in vectors], epsilon=1e-3))


@pytest.mark.parametrize("group", [1, 5])
@pytest.mark.parametrize("bias", [None, 0.4])
def test_batch_norm_folds_into_convolution(group: int, bias: float | None) -> None:
    net = Net()
    y = batch_norm(net, net.conv("input", (5, 10), group=group, bias=bias, name="a"), 10)
    result, operators = apply(net.model(net.node("Relu", y)), FoldBatchNorm())
    assert result.changed
    assert operators == ["Conv", "Relu"]


def test_batch_norm_folds_into_transposed_convolution_and_linear() -> None:
    net = Net(size=3)
    w = net.weight(net.random.standard_normal((5, 4, 2, 2)))
    y = batch_norm(net, net.node("ConvTranspose", "input", w, strides=[2, 2]), 4)
    z = batch_norm(net, net.linear(net.node("Flatten", y), (144, 6)), 6)
    result, operators = apply(net.model(z), FoldBatchNorm())
    assert operators == ["ConvTranspose", "Flatten", "Gemm"]
    assert len(result.notes) == 2


@pytest.mark.parametrize("case", ["no layer", "other readers", "shared", "output"])
def test_batch_norm_refuses_with_a_reason(case: str) -> None:
    net = Net()
    if case == "no layer":
        outputs = [batch_norm(net, net.node("Relu", "input"), 5)]
        reason = "no layer"
    else:
        x = net.conv("input", (5, 5), name="a")
        outputs = [batch_norm(net, x, 5)]
        reason = "other readers"
        if case == "other readers":
            outputs.append(net.node("Relu", x))
        elif case == "output":
            outputs.append(x)
        else:
            reason = "shared"
            outputs.append(net.node("Conv", "input", "a.weight"))
    result, operators = apply(net.model(*outputs), FoldBatchNorm())
    assert not result.changed
    assert "BatchNormalization" in operators
    assert reason in result.notes[0].reason


def test_batch_norm_with_a_planted_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "bias_rows", lambda layer: np.zeros(5))
    net = Net()
    model = net.model(batch_norm(net, net.conv("input", (5, 5), bias=1.0), 5))
    with pytest.raises(PassError, match="changed the outputs"):
        apply(model, FoldBatchNorm())


def test_constants_fold() -> None:
    net = Net()
    a, b = net.weight(np.ones((1, 5, 1, 1))), net.weight(np.full((1, 5, 1, 1), 2.0))
    total = net.node("Mul", net.node("Add", a, b), b)
    result, operators = apply(net.model(net.node("Mul", "input", total)), FoldConstants())
    assert result.changed
    assert operators == ["Mul"]


def test_flatten_with_a_computed_batch_gets_a_constant_target() -> None:
    net = Net()
    batch = net.node("Shape", "input", start=0, end=1)
    target = net.node("Concat", batch, net.weight(np.array([5 * 49])), axis=0)
    model = net.model(net.linear(net.node("Reshape", "input", target), (245, 3)))
    _, operators = apply(model, FoldConstants())
    assert operators == ["Reshape", "Gemm"]
    assert list(model.graph[0].inputs[1].const_value.numpy()) == [
        0,
        245,
    ]  # the batch is the source's own


def test_nothing_to_fold() -> None:
    net = Net()
    model = net.model(net.conv("input", (5, 5)))
    assert not apply(model, FoldConstants())[0].changed
    assert not apply(model, RemoveIdentity())[0].changed
    assert not apply(model, FoldBatchNorm())[0].changed


def test_identities_go() -> None:
    net = Net()
    x = net.node("Dropout", net.node("Identity", "input"), net.weight(np.array(0.5)))
    x = net.node("Cast", net.conv(x, (5, 4)), to=int(ir.DataType.DOUBLE))
    y = net.node("Identity", net.node("Relu", x))
    model = net.model(y)
    result, operators = apply(model, RemoveIdentity())
    assert operators == ["Conv", "Relu"]
    assert [value.name for value in model.graph.outputs] == [y]
    assert result.notes[0].count == 4


def test_identity_between_input_and_output_stays() -> None:
    net = Net()
    result, operators = apply(net.model(net.node("Identity", "input")), RemoveIdentity())
    assert operators == ["Identity"]
    assert not result.changed


class Restless:
    """A pass that says it changed something, every time."""

    name, exact = "restless", True

    def __call__(self, model: ir.Model) -> PassResult:
        return PassResult(True)


class Vandal(Restless):
    """A pass that leaves a model no runtime would take."""

    name = "vandal"

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, model: ir.Model) -> PassResult:
        self.runs += 1
        if self.runs == 1:
            model.graph[0].attributes["group"] = ir.AttrInt64("group", 3)
        return PassResult(self.runs == 1)


@pytest.mark.parametrize(("each", "message"), [(Restless(), "second run"), (Vandal(), "broke")])
def test_runner_trusts_no_pass(each: Pass, message: str) -> None:
    net = Net()
    with pytest.raises(PassError, match=message):
        apply(net.model(net.conv("input", (5, 5))), each)


@pytest.mark.parametrize("operator", ["Gather", "Slice"])
def test_chains_behind_known_lengths_and_filled_tensors_fold(operator: str) -> None:
    """Shape of an axis of fixed length, arithmetic on it, ConstantOfShape of the result."""
    net = Net(size=7)
    given = [net.weight(np.array([n])) for n in ((1,) if operator == "Gather" else (1, 2))]
    length = net.node(operator, net.node("Shape", "input"), *given)
    sides = net.weight(np.array([1, 1]))
    shape = net.node("Concat", net.weight(np.array([1])), length, sides, axis=0)
    filled = net.node("Cast", net.node("ConstantOfShape", shape), to=11)
    filled = net.node("Exp", filled)
    result, operators = apply(net.model(net.node("Add", "input", filled)), FoldConstants())
    assert result.changed
    assert "initializers" in result.notes[0].reason
    assert operators == ["Add"]


@pytest.mark.parametrize("readers", [1, 2])
def test_large_constants_fold_unless_both_forms_would_stay(readers: int) -> None:
    net = Net(channels=4, size=60)
    w = net.weight(net.random.standard_normal((1, 4, 60, 60)))
    if readers == 2:
        total = net.node("Add", net.node("Mul", "input", w), net.node("Exp", w))
        assert not apply(net.model(total), FoldConstants())[0].changed
        return
    result, operators = apply(
        net.model(net.node("Add", "input", net.node("Exp", w))), FoldConstants()
    )
    assert result.changed
    assert operators == ["Add"]


def test_a_large_filled_tensor_is_not_written_out() -> None:
    net = Net(channels=4, size=60)
    filled = net.node("ConstantOfShape", net.weight(np.array([1, 4, 60, 60])))
    total = net.node("Add", "input", net.node("Cast", filled, to=11))
    assert "ConstantOfShape" in apply(net.model(total), FoldConstants())[1]


def test_the_length_of_a_dynamic_axis_is_not_known() -> None:
    net = Net()
    length = net.node("Gather", net.node("Shape", "input"), net.weight(np.array([0, 1])))
    model = net.model(net.node("Cast", length, to=11))
    assert not FoldConstants()(model).changed


def test_what_a_fixed_target_makes_known_is_folded_too() -> None:
    net = Net(channels=4, size=6)
    shape = net.node("Shape", "input", start=0, end=1)
    rest = net.weight(np.array([4, 36]))
    target = net.node("Concat", net.node("Reshape", shape, net.weight([-1])), rest, axis=0)
    x = net.node("Reshape", "input", target)
    mean = net.node("ReduceMean", x, net.weight([2]), keepdims=1)
    ones = net.node("Concat", shape, net.weight(np.array([4, 1])), axis=0)
    y = net.node("Add", net.node("Expand", mean, ones), net.weight(0.5))
    model = net.model(net.node("Mul", x, net.node("Sqrt", net.node("Abs", y))))
    _, operators = apply(model, FoldConstants())
    assert "Shape" not in operators
