"""Checks that each value of a model is defined once, and read only where it is visible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from prunedeploy.graph import protos
from prunedeploy.graph.protos import Graph, InvalidError, Node, label

UNSORTED = "nodes come before those whose results they read: sorted"


@dataclass
class _Scope:
    """The values that one graph defines: what defines each, and the index of its node."""

    given: dict[str, str] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)


def check(model: onnx.ModelProto) -> tuple[str, ...]:
    """Check that every value is defined exactly once, and that every value read is defined.

    Args:
        model: an ONNX model; it is not changed.

    Returns:
        That the nodes are not sorted, where they are not: that can be put right.

    Raises:
        InvalidError: a value is given twice, or read and never given; the message names the node.
    """
    unsorted = _check_graph(model.graph, {})
    for function in model.functions:
        scope = _Scope(dict.fromkeys(function.input, f"function {function.name}"))
        unsorted |= _check_nodes(function.node, scope, {}, function.output, function.name)
    return (UNSORTED,) if unsorted else ()


def _check_graph(graph: Graph, outer: Mapping[str, str]) -> bool:
    scope = _Scope()
    for value in graph.input:
        _give(scope, value.name, "an input of the graph")
    for tensor in graph.initializer:
        if scope.given.get(tensor.name) != "an input of the graph":
            _give(scope, tensor.name, "an initializer")
    return _check_nodes(graph.node, scope, outer, [x.name for x in graph.output], graph.name)


def _check_nodes(
    nodes: Iterable[Node], scope: _Scope, outer: Mapping[str, str], outputs: Iterable[str], of: str
) -> bool:
    """Whether the nodes, or those inside of them, have to be sorted."""
    nodes = list(nodes)
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            _give(scope, name, f"node {label(node)}")
            scope.position[name] = index
    visible = {**outer, **scope.given}
    unsorted = False
    for index, node in enumerate(nodes):
        for attribute in node.attribute:
            if not attribute.type:
                raise InvalidError(f"attribute {attribute.name} of node {label(node)} has no type")
        bodies = list(protos.bodies(node))
        for body in bodies:
            unsorted |= _check_graph(body, visible)
        for name in (*filter(None, node.input), *_captured(bodies)):
            if name not in visible:
                raise InvalidError(f"node {label(node)} reads {name!r}, which nothing gives")
            unsorted |= scope.position.get(name, -1) >= index
    for name in outputs:
        if name not in scope.given:
            raise InvalidError(
                f"{name!r}, an output of graph {of!r}, is given by none of its nodes"
            )
    return unsorted


def _give(scope: _Scope, name: str, who: str) -> None:
    """Record a definition; that an inner graph redefines an outer value is for ONNX's checker."""
    before = scope.given.get(name)
    if before is not None:
        raise InvalidError(f"{name!r} is given twice: by {before} and by {who}")
    scope.given[name] = who


def _captured(bodies: Iterable[Graph]) -> Iterable[str]:
    """Names that graphs inside of a node read from around it."""
    for body in bodies:
        own = {x.name for x in (*body.input, *body.initializer)}
        own |= {name for node in body.node for name in node.output}
        for node in body.node:
            for name in (*filter(None, node.input), *_captured(protos.bodies(node))):
                if name not in own:
                    yield name
