"""One form for what ONNX has several of: sparse tensors, functions, weights in Constants."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from commands import assert_same, through_all
from onnx import TensorProto, helper, numpy_helper
from small_onnx import FLOAT, conv_net, draw, graph, in_ort, info, model, node, sparse, write

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.reference.evaluate import Evaluator

X8, Y8 = info("x", FLOAT, [1, 8]), info("y", FLOAT, [1, 8])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relu(source: str, result: str) -> onnx.NodeProto:
    return node("Relu", [source], [result])


# -- sparse tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize("by_rank", [False, True])
@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_sparse_tensors_are_read_as_dense(where: str, by_rank: bool) -> None:
    weight = draw(4, 8)
    weight[np.abs(weight) < 0.8] = 0
    stored = sparse(weight, "W", by_rank=by_rank)
    nodes = [node("Gemm", ["x", "W"], ["y"], transB=1)]
    if where == "constant":
        nodes.insert(0, node("Constant", [], ["W"], sparse_value=stored))
        made = model(nodes, [X8], [info("y", FLOAT, [1, 4])])
    else:
        made = model(nodes, [X8], [info("y", FLOAT, [1, 4])], sparse_initializer=[stored])
    feeds = {"x": draw(1, 8, seed=3)}
    through_all(made, feeds, {"y": feeds["x"] @ weight.T})
    totals = prunedeploy.inspect("net.onnx").totals
    assert (totals.weights, totals.nonzero) == (32, np.count_nonzero(weight))
    assert prunedeploy.shrink("net.onnx", "small.onnx", align=1).before.nonzero == totals.nonzero


@pytest.mark.parametrize("case", ["beyond", "negative", "twice", "too few", "too large"])
def test_sparse_tensors_that_make_no_sense(case: str) -> None:
    stored = sparse(np.eye(8, dtype=np.float32), "W")
    indices = np.flatnonzero(np.eye(8)).astype(np.int64)
    if case == "too large":
        stored.dims[:] = [1 << 30, 1 << 30]
    elif case == "too few":
        indices = indices[:-1]
    else:
        indices[-1] = {"beyond": 64, "negative": -1, "twice": 0}[case]
    stored.indices.CopyFrom(numpy_helper.from_array(indices, "i"))
    write(model([node("MatMul", ["x", "W"], ["y"])], [X8], [Y8], sparse_initializer=[stored]))
    with pytest.raises(UserError, match=r"sparse tensor(s, made| 'W')"):
        prunedeploy.inspect("net.onnx")


# -- functions ----------------------------------------------------------------------------------


def function(
    name: str, results: list[str], nodes: list[onnx.NodeProto], opset: int = 17
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my", 1)]
    return helper.make_function("my", name, ["a"], results, nodes, opsets)


def calling(*functions: onnx.FunctionProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A call of the first of the functions behind a layer."""
    nodes = [node("MatMul", ["x", "W"], ["v"]), node("F", ["v"], list(outputs), domain="my")]
    made = model(nodes, [X8], [info(name, FLOAT, [1, 8]) for name in outputs], {"W": draw(8, 8)})
    made.functions.extend(functions)
    made.opset_import.append(helper.make_opsetid("my", 1))
    return made


def test_functions_are_inlined_everywhere() -> None:
    inner = function("G", ["b"], [node("Neg", ["a"], ["b"])])
    outer = function("F", ["c"], [node("G", ["a"], ["b"], domain="my"), relu("b", "c")])
    never_called = function("H", ["b"], [relu("a", "b")])
    through_all(calling(outer, inner, never_called), {"x": draw(1, 8)})


def test_weights_inside_of_a_function() -> None:
    value = numpy_helper.from_array(draw(8, 8, seed=4))
    nodes = [node("Constant", [], ["w"], value=value), node("MatMul", ["a", "w"], ["b"])]
    through_all(calling(function("F", ["b"], nodes)), {"x": draw(1, 8)})
    assert prunedeploy.inspect("net.onnx").totals.weights == 128


@pytest.mark.parametrize("results", [["a"], ["b", "b"], ["b", "a"], ["a", "a"]])
def test_functions_that_hand_a_value_on_keep_the_outputs_names(results: list[str]) -> None:
    outputs = ("y", "z")[: len(results)]
    found = preparation.from_proto(
        calling(function("F", results, [relu("a", "b")]), outputs=outputs)
    ).model
    assert [v.name for v in found.graph.outputs] == list(outputs)
    feeds = {"x": draw(1, 8)}
    product = feeds["x"] @ draw(8, 8)
    values = {"a": product, "b": np.maximum(product, 0)}
    expected = {name: values[of] for name, of in zip(outputs, results, strict=True)}
    assert_same(Evaluator(found).run(feeds), expected)


def test_a_function_of_another_opset() -> None:
    """Relu is the same in both, Softmax is not."""
    through_all(calling(function("F", ["b"], [relu("a", "b")], opset=13)), {"x": draw(1, 8)})
    write(calling(function("F", ["b"], [node("Softmax", ["a"], ["b"])], opset=12)))
    with pytest.raises(UserError, match=r"function F is of opset 12.*Softmax is not the same"):
        prunedeploy.inspect("net.onnx")


def bombs() -> Iterator[onnx.ModelProto]:
    """Two calls in each of 40 functions; calls in a circle; a long chain."""
    names = ["F", *(f"f{i}" for i in range(1, 40))]
    twice = [
        function(a, ["c"], [node(b, ["a"], ["b"], domain="my"), node(b, ["b"], ["c"], domain="my")])
        for a, b in pairwise(names)
    ]
    yield calling(*twice, function(names[-1], ["c"], [relu("a", "c")]))
    yield calling(function("F", ["b"], [node("F", ["a"], ["b"], domain="my")]))
    names = ["F", *(f"f{i}" for i in range(1, 3000))]
    chain = [function(a, ["b"], [node(b, ["a"], ["b"], domain="my")]) for a, b in pairwise(names)]
    yield calling(*chain, function(names[-1], ["b"], [relu("a", "b")]))


@pytest.mark.parametrize("index", range(3))
def test_functions_that_never_end_are_refused(index: int) -> None:
    write(list(bombs())[index])
    with pytest.raises(UserError, match="function"):
        prunedeploy.inspect("net.onnx")


# -- the one form -------------------------------------------------------------------------------


def test_weights_in_constants_are_initializers() -> None:
    made = conv_net()
    weights = list(made.graph.initializer)
    del made.graph.initializer[:]
    for tensor in weights:
        made.graph.node.insert(0, node("Constant", [], [tensor.name], value=tensor))
    through_all(made, {"x": draw(2, 3, 8, 8)})
    assert set(models.load(Path("net.onnx")).graph.initializers) == {"W", "V"}
    totals = prunedeploy.inspect("net.onnx").totals
    assert (totals.weights, totals.dead_outputs) == (4 * 27 + 20, 1)


def test_an_output_of_no_known_shape_passes_the_checker() -> None:
    """The branches of an If are of different ranks: not even that of the result is known."""
    branch = node(
        "If",
        ["k"],
        ["y"],
        then_branch=graph("t", [relu("x", "t1")], ["t1"]),
        else_branch=graph(
            "e", [node("Flatten", ["x"], ["e0"]), node("Squeeze", ["e0"], ["e1"])], ["e1"]
        ),
    )
    made = model([branch], [X8, info("k", TensorProto.BOOL, [])], [info("y", FLOAT, None)])
    write(made)
    result = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
    assert result.difference.passed
    for k in (True, False):
        feeds = {"x": draw(1, 8), "k": np.array(k)}
        assert_same(in_ort("small.onnx", feeds), in_ort("net.onnx", feeds))


def test_what_a_file_says_of_inner_sizes_is_kept_where_it_is_right() -> None:
    """A private operator: nothing else tells what comes out of it."""
    made = model(
        [node("Odd", ["x"], ["a"], domain="com.example"), relu("a", "y")],
        [X8],
        [info("y", FLOAT, [1, 9])],
        value_info=[info("a", FLOAT, [1, 9])],
    )
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    prepared = preparation.from_proto(made)
    assert not prepared.notes
    assert prepared.model.graph[0].outputs[0].shape == ir.Shape([1, 9])


def test_values_that_are_no_tensors_keep_their_types() -> None:
    """onnx_ir takes what was inferred of a sequence for a tensor; ONNX Runtime then refuses it."""
    made = model(
        [
            node("MatMul", ["x", "W"], ["v"]),
            node("SequenceConstruct", ["v", "x"], ["s"]),
            node("SequenceInsert", ["s", "v"], ["t"]),
            node("ConcatFromSequence", ["t"], ["y"], axis=0),
        ],
        [X8],
        [info("y", FLOAT, [3, 8])],
        {"W": draw(8, 8)},
    )
    write(made)
    prunedeploy.shrink("net.onnx", "small.onnx", align=1)
    feeds = {"x": draw(1, 8)}
    assert_same(in_ort("small.onnx", feeds), in_ort("net.onnx", feeds))
    loaded = models.load(Path("small.onnx"))
    assert [isinstance(n.outputs[0].type, ir.SequenceType) for n in loaded.graph] == [
        n.op_type.startswith("Sequence") for n in loaded.graph
    ]


def test_an_operator_that_onnx_itself_cannot_follow_is_not_blamed_on_the_model() -> None:
    """Its inference of MeanVarianceNormalization without axes fails inside of the function."""
    made = model(
        [node("MeanVarianceNormalization", ["x"], ["y"])],
        [info("x", FLOAT, [2, 3, 4, 4])],
        [info("y", FLOAT, [2, 3, 4, 4])],
    )
    write(made)
    prunedeploy.shrink("net.onnx", "small.onnx", align=1)
    feeds = {"x": draw(2, 3, 4, 4)}
    assert_same(in_ort("small.onnx", feeds), in_ort("net.onnx", feeds))


def test_types_are_checked_inside_of_branches() -> None:
    half = onnx.numpy_helper.from_array(np.ones(8, np.float16), "h")
    then = graph("t", [node("Add", ["x", "h"], ["t1"], name="inner")], ["t1"])
    then.initializer.append(half)
    other = graph("e", [relu("x", "e1")], ["e1"])
    branch = node("If", ["k"], ["y"], then_branch=then, else_branch=other)
    write(model([branch], [X8, info("k", TensorProto.BOOL, [])], [Y8]))
    with pytest.raises(UserError, match=r"Add \(inner\).* type tensor\(float16\)"):
        prunedeploy.inspect("net.onnx")
