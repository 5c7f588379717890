"""Identity: gone where both borders of its graph stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_onnx import FLOAT, draw, graph, info, model, node

from prunedeploy import passes
from prunedeploy.graph import preparation
from prunedeploy.passes import RemoveIdentity
from prunedeploy.reference.evaluate import Evaluator

BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64
X, K = info("x", FLOAT, [2, 4]), info("k", BOOL, [])
COUNT = np.array(3, np.int64)


def identity(source: str, result: str) -> onnx.NodeProto:
    return node("Identity", [source], [result])


def outputs(*names: str, shape: tuple[int, ...] = (2, 4)) -> list[onnx.ValueInfoProto]:
    return [info(name, FLOAT, shape) for name in names]


def product() -> onnx.NodeProto:
    return node("MatMul", ["x", "A"], ["v"])


def if_model(then: onnx.GraphProto, other: onnx.GraphProto, *names: str) -> onnx.ModelProto:
    branch = node("If", ["k"], list(names), then_branch=then, else_branch=other)
    return model([product(), branch], [X, K], outputs(*names), {"A": draw(4, 4)})


def negative(*names: str) -> onnx.GraphProto:
    return graph("e", [node("Neg", ["v"], [name]) for name in names], list(names))


def branch_hands_on(value: str) -> onnx.ModelProto:
    """``value`` of the graph around it: a result, an input, an initializer."""
    then = graph("t", [identity(value, "t")], ["t"])
    made = if_model(then, negative("e"), "y")
    made.graph.initializer.append(onnx.numpy_helper.from_array(draw(2, 4), "w"))
    return made


def branch_hands_on_twice() -> onnx.ModelProto:
    then = graph("t", [identity("v", "t1"), identity("v", "t2")], ["t1", "t2"])
    return if_model(then, negative("e1", "e2"), "y", "z")


def branch_of_a_chain() -> onnx.ModelProto:
    nodes = [node("Neg", ["v"], ["a"]), identity("a", "b"), identity("b", "t"), identity("b", "u")]
    return if_model(graph("t", nodes, ["t", "u"]), negative("e1", "e2"), "y", "z")


def nested_branches() -> onnx.ModelProto:
    def inner(name: str) -> onnx.GraphProto:
        then = graph("t", [identity("v", f"{name}t")], [f"{name}t"])
        other = graph("e", [identity("x", f"{name}e")], [f"{name}e"])
        made = node("If", ["k"], [name], then_branch=then, else_branch=other)
        return graph(name, [made], [name])

    return if_model(inner("p"), inner("q"), "y")


def outer_value_is_an_output() -> onnx.ModelProto:
    made = branch_hands_on("v")
    made.graph.output.extend(outputs("v"))
    return made


def loop(*inner: onnx.NodeProto, results: tuple[str, ...], scanned: tuple[str, ...] = ()):
    """Three rounds; the body has ``c`` and ``s`` and reads ``v`` from around it."""
    inputs = [info("i", INT64, []), info("c", BOOL, []), info("s", FLOAT, [2, 4])]
    names = [info("co", BOOL, []), *(info(name, FLOAT, [2, 4]) for name in results)]
    body = helper.make_graph([identity("c", "co"), *inner], "body", inputs, names)
    made = node("Loop", ["n", "", "x"], ["y", *scanned], body=body)
    given = [*outputs("y"), *outputs(*scanned, shape=(3, 2, 4))]
    return model([product(), made], [X], given, {"A": draw(4, 4), "n": COUNT})


def scan() -> onnx.ModelProto:
    row = [info(name, FLOAT, [4]) for name in ("s", "e", "so", "eo")]
    nodes = [node("Add", ["s", "e"], ["t"]), identity("t", "so"), identity("t", "eo")]
    body = helper.make_graph(nodes, "body", row[:2], row[2:])
    made = node("Scan", ["zero", "v"], ["y", "z"], body=body, num_scan_inputs=1)
    given = [info("y", FLOAT, [4]), info("z", FLOAT, [2, 4])]
    weights = {"A": draw(4, 4), "zero": np.zeros(4, np.float32)}
    return model([product(), made], [X], given, weights)


BORDERS = {
    "a branch hands on a result": lambda: branch_hands_on("v"),
    "a branch hands on an input": lambda: branch_hands_on("x"),
    "a branch hands on an initializer": lambda: branch_hands_on("w"),
    "a branch hands on a value twice": branch_hands_on_twice,
    "a branch with a chain": branch_of_a_chain,
    "branches in branches": nested_branches,
    "what is handed on is an output": outer_value_is_an_output,
    "a loop hands its state on": lambda: loop(identity("s", "so"), results=("so",)),
    "a loop hands an outer value on": lambda: loop(
        node("Add", ["s", "v"], ["t"]),
        identity("t", "so"),
        identity("v", "p"),
        identity("s", "q"),
        results=("so", "p", "q"),
        scanned=("z", "u"),
    ),
    "a scan": scan,
}


@pytest.mark.parametrize("case", BORDERS)
def test_inner_graphs_keep_both_borders(case: str) -> None:
    program = preparation.from_proto(BORDERS[case]()).model
    borders = [
        ([v.name for v in g.inputs], len(g.outputs))
        for g in (program.graph, *program.graph.subgraphs())
    ]
    names = [v.name for v in program.graph.outputs]
    cases = [{"x": draw(2, 4), "k": np.array(k)} for k in (True, False)]
    cases = [
        {k: v for k, v in feeds.items() if k in {x.name for x in program.graph.inputs}}
        for feeds in cases
    ]
    expected = [Evaluator(program).run(feeds) for feeds in cases]
    passes.run(program, [RemoveIdentity()], cases[0])
    assert [v.name for v in program.graph.outputs] == names
    after = [
        ([v.name for v in g.inputs], len(g.outputs))
        for g in (program.graph, *program.graph.subgraphs())
    ]
    assert after == borders
    for feeds, before in zip(cases, expected, strict=True):
        found = Evaluator(program).run(feeds)
        for name, array in before.items():
            np.testing.assert_array_equal(found[name], array)
    onnx.checker.check_model(ir.to_proto(program), full_check=True)


def test_a_chain_inside_of_a_branch_goes_but_for_the_outputs() -> None:
    program = preparation.from_proto(branch_of_a_chain()).model
    RemoveIdentity()(program)
    then = program.graph[-1].attributes["then_branch"].as_graph()
    assert [n.op_type for n in then] == ["Neg", "Identity"]


@pytest.mark.parametrize("opset", [6, 7])
def test_dropout_before_opset_7_drops_unless_it_is_tested(opset: int) -> None:
    def made(**attributes: int) -> ir.Model:
        nodes = [node("Dropout", ["x"], ["a"], **attributes), node("Relu", ["a"], ["y"])]
        return preparation.from_proto(model(nodes, [X], outputs("y"), opset=opset)).model

    assert RemoveIdentity()(made()).changed == (opset == 7)
    if opset == 6:
        assert RemoveIdentity()(made(is_test=1)).changed
