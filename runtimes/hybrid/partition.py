"""Cuts a model into parts for the sparse runtime: connected, convex, as large as possible.

A set of nodes is convex where no path leaves it and comes back: only then can one node take its
place. A node's stage counts how often the paths to it change between the two runtimes; nodes of one
runtime and one stage are convex together, and so is each connected component of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from prunedeploy.graph.subgraphs import bodies
from prunedeploy.runtimes.hybrid.survey import BATCH, Refusal, Survey
from prunedeploy.runtimes.sparse.importer.importer import TYPES


@dataclass(frozen=True)
class Part:
    """Nodes that one sparse engine computes, in the model's order.

    Attributes:
        nodes: of the model.
        inputs: what they read that others compute, the inputs with the batch in front first.
        outputs: what they compute that others read.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def partition(model: ir.Model, survey: Survey) -> tuple[tuple[Part, ...], dict[str, Refusal]]:
    """The parts, and why each of the other nodes is in none.

    What a part gives has to be float32, and the sizes at its edges have to be known: nodes at an
    edge that cannot be are left to ONNX Runtime, until all edges are possible.
    """
    refused = dict(survey.refused)
    while True:
        parts = tuple(_part(nodes, survey) for nodes in _components(model, refused))
        bad = {name: why for part in parts for name, why in _impossible(part, survey)}
        if not bad:
            return parts, refused
        refused |= bad


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads, those that graphs inside of it take from around it included."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        own = {value for inner in body.all_nodes() for value in inner.outputs}
        own |= {*body.inputs, *body.initializers.values()}
        for inner in body.all_nodes():
            yield from (value for value in inner.inputs if value is not None and value not in own)
        yield from (value for value in body.outputs if value not in own)


def _components(model: ir.Model, refused: Mapping[str, Refusal]) -> list[list[ir.Node]]:
    """The connected components of the nodes of each stage that no runtime but ours is to take."""
    stages: dict[ir.Node, int] = {}  # even: the sparse runtime's
    component: dict[ir.Node, ir.Node] = {}

    def root(node: ir.Node) -> ir.Node:
        while component[node] is not node:
            component[node] = node = component[component[node]]
        return node

    for node in model.graph:
        parity = int(str(node.name) in refused)
        before = [x for x in (value.producer() for value in reads(node)) if x in stages]
        stage = max((stages[x] + (stages[x] % 2 != parity) for x in before if x), default=parity)
        stages[node], component[node] = stage, node
        for other in before:
            if other is not None and not parity and stages[other] == stage:
                component[root(other)] = root(node)
    groups: dict[ir.Node, list[ir.Node]] = {}
    for node in model.graph:
        if str(node.name) not in refused:
            groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def _part(nodes: list[ir.Node], survey: Survey) -> Part:
    inside = set(nodes)
    read = dict.fromkeys(value for node in nodes for value in reads(node))
    inputs = [x for x in read if x.producer() not in inside and not survey.is_constant(str(x.name))]
    inputs.sort(key=lambda value: not _is_open(value, survey))
    made = (value for node in nodes for value in node.outputs)
    return Part(tuple(nodes), tuple(inputs), tuple(x for x in made if _leaves(x, inside)))


def _is_open(value: ir.Value, survey: Survey) -> bool:
    return (survey.shape(str(value.name)) or (0,))[0] == BATCH


def _leaves(value: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether somebody else reads a value: another node, a graph inside of one, the caller."""
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())


def _impossible(part: Part, survey: Survey) -> Iterator[tuple[str, Refusal]]:
    """The nodes at edges where the model cannot be cut, by name, and why not."""
    edges = {value: _why_no_input(value, survey) for value in part.inputs}
    for node in part.nodes:
        for value in reads(node):
            if reason := edges.get(value, ""):
                yield str(node.name), Refusal("cannot-cut", reason)
    for value in part.outputs:
        producer = value.producer()
        if producer is not None and (reason := _why_no_output(value, survey)):
            yield str(producer.name), Refusal("cannot-cut", reason)


def _why_no_input(value: ir.Value, survey: Survey) -> str:
    name = str(value.name)
    if survey.is_folded(name):
        return f"its input {name} depends on the batch alone"
    if survey.shape(name) is None:
        return f"the batch is not the first axis of its input {name}"
    if value.dtype is not None and value.dtype not in TYPES:
        return f"its input {name} is {value.dtype.name.lower()}"
    return ""


def _why_no_output(value: ir.Value, survey: Survey) -> str:
    name = str(value.name)
    tensors = survey.tensors(name)
    if not tensors:
        return f"its output {name} is not computed"
    if survey.is_folded(name):
        return f"its output {name} does not depend on the inputs"
    if tensors[0].dtype != "float32":
        return f"its output {name} is {tensors[0].dtype}, which engines cannot give"
    # with the batch open a run is computed in pieces, and so is all that a part gives
    if survey.shape(name) is None or (len(survey.batches) > 1 and not _is_open(value, survey)):
        return f"the batch is not the first axis of its output {name}"
    return ""
