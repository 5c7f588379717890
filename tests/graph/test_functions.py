"""Models that are more than any network is refused before work is done for each node."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from prunedeploy.graph import functions
from prunedeploy.graph.protos import InvalidError


def chain(count: int, inputs: int = 1, name: str = "n") -> ModelProto:
    relu = helper.make_node("Sum", ["x"] * inputs, ["y"], name=name)
    graph = helper.make_graph([relu] * count, "g", [], [])
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: chain(functions.MAX_NODES + 1), "more than 100,000 nodes"),
        (lambda: chain(1, functions.MAX_OPERANDS + 1), "a node Sum has 10,001 inputs or outputs"),
        (lambda: chain(1, name="n" * (functions.MAX_NAME + 1)), "a name of 65,537 characters"),
    ],
    ids=["nodes", "inputs", "name"],
)
def test_what_no_network_has(model, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        functions.check_size(model())


def test_nodes_of_branches_and_functions_count() -> None:
    inside = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])] * 60_000, "b", [], [])
    made = helper.make_node("If", ["c"], ["z"], then_branch=inside, else_branch=inside)
    model = helper.make_model(helper.make_graph([made], "g", [], []))
    with pytest.raises(InvalidError, match="nodes"):
        functions.check_size(model)


def nested(levels: int) -> ModelProto:
    """Branches within branches, so many levels of them around an operator."""
    made = helper.make_node("Relu", ["x"], ["y"])
    for _ in range(levels):
        inside = helper.make_graph([made], "b", [], [])
        made = helper.make_node("If", ["c"], ["y"], then_branch=inside)
    return helper.make_model(helper.make_graph([made], "g", [], []))


def test_branches_within_branches() -> None:
    functions.check_size(nested(functions.MAX_LEVELS))
    with pytest.raises(InvalidError, match="more than 20 deep"):
        functions.check_size(nested(functions.MAX_LEVELS + 1))


def test_large_networks_pass() -> None:
    functions.check_size(chain(30_000, 100, "layer" * 50))
