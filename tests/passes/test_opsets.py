"""Every pass on networks of every opset: each operator is read as the model's own opset has it.

The oracle is ONNX Runtime, on the network as it was, not the interpreter that the passes go by.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowered import random_feeds, reference
from onnx import TensorProto, helper
from opset_nets import CASES, network

from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.graph.preparation import prepare
from prunedeploy.passes.opset import NEWEST, OLDEST, lowered
from prunedeploy.reference import reductions, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.registry import KERNELS
from prunedeploy.to_torch import program
from prunedeploy.to_torch.network import Network
from prunedeploy.to_torch.values import CannotExpress


def same(expected: list[np.ndarray], found: list[np.ndarray]) -> None:
    named = ({str(i): x for i, x in enumerate(each)} for each in (expected, found))
    difference = verify.compare(*named)
    assert difference.passed, difference


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_the_default_passes(name: str, opset: int) -> None:
    model = network(name, opset)
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    same(expected, list(Evaluator(model).run(feeds).values()))
    prepare(model)
    passes.run(model, passes.default(), feeds)
    same(expected, list(Evaluator(model).run(feeds).values()))
    same(expected, reference(model, feeds))


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_constant_folding_alone(name: str, opset: int) -> None:
    model = network(name, opset)
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    prepare(model)
    passes.run(model, [passes.FoldConstants()], feeds)
    same(expected, reference(model, feeds))
    initializers = set(model.graph.initializers.values())
    for node in model.graph:  # all that could be folded is
        assert not set(filter(None, node.inputs)) <= initializers, node


def _refusal(name: str, opset: int, wanted: int) -> str:
    """What lowering refuses the network with; empty: it does not."""
    if opset > NEWEST:
        return f"opset {opset} is newer than what is known"
    if name == "norm_in_training" and wanted < 14 <= opset:
        return "BatchNormalization"
    return ""


@pytest.mark.parametrize("wanted", [OLDEST, 13, 17])
@pytest.mark.parametrize(("name", "opset"), CASES)
def test_lowering_to_an_older_opset(name: str, opset: int, wanted: int) -> None:
    model = network(name, opset)
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    prepare(model)
    refusal = _refusal(name, opset, wanted)
    if refusal:
        with pytest.raises(UserError, match=refusal):
            lowered(model, wanted)
        return
    lowered(model, wanted)
    assert model.graph.opset_imports[""] == min(opset, wanted)
    same(expected, reference(model, feeds))
    same(expected, list(Evaluator(model).run(feeds).values()))


REFUSED_BY_TORCH = ("norm_in_training", "hardmax", "resized", "pools", "largest")


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_a_torch_program(name: str, opset: int) -> None:
    import torch

    model = prepare(network(name, opset))
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    examples = tuple(map(torch.from_numpy, feeds.values()))
    try:
        found = program.run(Network(model), examples, [str(v.name) for v in model.graph.outputs])
    except (CannotExpress, UserError):
        assert name in REFUSED_BY_TORCH
        return
    same(expected, list(found.values()))


@pytest.mark.parametrize("opset", [11, 12, 15, 17])
def test_sequences_of_parts_become_parts_of_that_opset(opset: int) -> None:
    """onnxscript, which follows sequences, writes Split, Squeeze and Unsqueeze of newer opsets."""
    kind = TensorProto.FLOAT
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "zero"], ["a"]),
        helper.make_node("SequenceAt", ["parts", "one"], ["b"]),
        helper.make_node("SequenceConstruct", ["b", "a"], ["turned"]),
        helper.make_node("ConcatFromSequence", ["turned"], ["y"], axis=0, new_axis=1),
    ]
    numbers = [
        helper.make_tensor(n, TensorProto.INT64, [], [v])
        for n, v in (("two", 2), ("zero", 0), ("one", 1))
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [2, 4, 3])],
        [helper.make_tensor_value_info("y", kind, [2, 2, 2, 3])],
        numbers,
    )
    imports = [helper.make_opsetid("", opset)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    prepare(model)
    passes.run(model, [passes.FoldConstants()], feeds)
    same(expected, reference(model, feeds))
    assert "SplitToSequence" not in {node.op_type for node in model.graph}


def test_folding_with_the_wrong_version_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a constant Softmax of opset 11 folded as opset 13 has it."""
    model = network("softmax", 11)
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    newest = reductions.TABLE["Softmax"][13]
    monkeypatch.setitem(KERNELS, "Softmax", {1: newest, 11: newest, 13: newest})
    passes.FoldConstants()(model)
    with pytest.raises(AssertionError):
        same(expected, reference(model, feeds))


def test_a_channel_of_constants_in_training_holds_the_bias() -> None:
    """Its deviation from the batch is nothing; the running statistics do not count."""
    model = network("norm_in_training", 9)
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    passes.run(model, [passes.ShrinkChannels()], feeds)
    same(expected, reference(model, feeds))


def test_parameters_of_every_element_are_let_alone() -> None:
    from net import Net

    net = Net(channels=3, size=4, opset=7)
    x = net.conv("input", (3, 6), dead=[1, 2], dead_bias=0.5, name="a")
    shape = (6, 4, 4)
    vectors = [net.random.standard_normal(shape) for _ in range(3)]
    names = [net.weight(v) for v in (*vectors, net.random.random(shape) + 0.5)]
    y = net.node("BatchNormalization", x, *names, spatial=0)
    model = net.model(str(net.conv(net.node("Relu", y), (6, 4), name="b")))
    feeds = random_feeds(model, 2, 3)
    before = Evaluator(model).run(feeds)
    passes.run(prepare(model), passes.default(), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 1e-12).passed


@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_that_drops_is_not_passed_through(training: bool) -> None:
    from net import Net

    net = Net(channels=3, size=4, opset=13, dtype=np.float32)
    x = net.conv("input", (3, 6), dead=[1, 2], dead_bias=0.5, name="a")
    options = [net.weight(np.array(0.5)), net.weight(np.array(training))]
    y = net.node("Dropout", x, *options, seed=3)
    model = net.model(str(net.conv(y, (6, 4), name="b")))
    passes.RemoveIdentity()(model)
    passes.ShrinkChannels()(model)
    width = model.graph.initializers["a.weight"].shape
    assert width is not None
    assert ("Dropout" in {n.op_type for n in model.graph}) == training
    assert width[0] == (6 if training else 4)


@pytest.mark.parametrize("opset", [7, 8])
def test_a_constant_result_is_expanded_where_the_opset_has_that(opset: int) -> None:
    from net import Net

    net = Net(channels=3, size=4, opset=opset, dtype=np.float32, batch=2)
    x = net.conv("input", (3, 4), dead=range(4), dead_bias=0.5, name="a")
    model = net.model(str(net.node("Relu", x)))
    feeds = random_feeds(model, 2, 3)
    expected = reference(model, feeds)
    (report,) = passes.run(prepare(model), [passes.RemoveDeadBranches()], feeds)
    same(expected, reference(model, feeds))
    assert report.result.changed == (opset >= 8)
    if opset < 8:
        assert "no Expand" in report.result.notes[0].reason
