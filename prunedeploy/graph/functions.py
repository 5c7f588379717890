"""Prepares the functions that a model defines for being inlined."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import onnx
from onnx import helper

from prunedeploy.graph import protos
from prunedeploy.graph.protos import InvalidError, Node
from prunedeploy.graph.schemas import schema

MAX_NODES = 100_000  # once functions are inlined: each may call others any number of times
MAX_OPERANDS = 10_000  # inputs of one node, and outputs
MAX_NAME = 1 << 16  # bytes
MAX_DEPTH = 100  # of calls within calls
MAX_LEVELS = 20  # of graphs within graphs; each is prepared as often as it has others around it

Key = tuple[str, str, str]


def ready(model: onnx.ModelProto) -> None:
    """Bring the functions of ``model`` into a form that can be inlined, in place.

    Raises:
        InvalidError: a function calls itself, all of them come to too many nodes, or one is
            written for an opset whose operators are not those of the model's.
    """
    for function in model.functions:
        _own_outputs(function)
        _same_opset(function, model)
    if model.functions:
        _check_calls(model)


def check_size(model: onnx.ModelProto) -> None:
    """Refuse what no network has, before anything is done that takes time for each node.

    Raises:
        InvalidError: too many nodes, a node of too many inputs or outputs, a name too long, or
            graphs within too many others.
    """
    nodes = chain(model.graph.node, *(function.node for function in model.functions))
    for count, node in enumerate(_all(nodes), 1):
        if count > MAX_NODES:
            raise InvalidError(f"it has more than {MAX_NODES:,} nodes")
        if (operands := max(len(node.input), len(node.output))) > MAX_OPERANDS:
            raise InvalidError(f"a node {node.op_type[:40]} has {operands:,} inputs or outputs")
        longest = max(map(len, (node.name, node.op_type, *node.input, *node.output)))
        if longest > MAX_NAME:
            raise InvalidError(f"it has a name of {longest:,} characters")
    if any(_levels(node) > MAX_LEVELS for node in protos.all_nodes(model)):
        raise InvalidError(f"its graphs lie within others, more than {MAX_LEVELS} deep")


def _levels(node: Node) -> int:
    """How deep the graphs inside of ``node`` lie in each other: 0 where it has none."""
    inside = (inner for body in protos.bodies(node) for inner in body.node)
    return max((1 + _levels(inner) for inner in inside), default=0)


def _own_outputs(function: onnx.FunctionProto) -> None:
    """Every output is a value of its own, not an input handed on, nor another output."""
    taken = {name for node in function.node for name in node.output} | set(function.input)
    seen = set(function.input)
    for index, name in enumerate(function.output):
        if name in seen:
            number = 1
            while f"{name}_{number}" in taken:
                number += 1
            own = f"{name}_{number}"
            taken.add(own)
            function.node.append(helper.make_node("Identity", [name], [own]))
            function.output[index] = own
        seen.add(name)


def _same_opset(function: onnx.FunctionProto, model: onnx.ModelProto) -> None:
    """The model's opset for the function, where its operators are the same in both."""
    versions = {each.domain: each.version for each in model.opset_import}
    wanted = versions.get("", 0)
    for each in function.opset_import:
        if each.domain or each.version == wanted:
            continue
        for node in _all(function.node):
            if not node.domain and _meaning(node, each.version) != _meaning(node, wanted):
                raise InvalidError(
                    f"function {function.name} is of opset {each.version}, the model of {wanted}, "
                    f"and {node.op_type} is not the same in both"
                )
        each.version = wanted


def _meaning(node: Node, opset: int) -> object:
    """The operator's definition in ``opset`` without the types it takes; None for no operator."""
    definition = schema(node.op_type, opset)
    if definition is None:
        return None
    attributes = {
        name: (each.type, each.required, each.default_value.SerializeToString(), each.description)
        for name, each in definition.attributes.items()
    }
    values = [(each.name, each.option) for each in (*definition.inputs, *definition.outputs)]
    return attributes, values, definition.doc


def _all(nodes: Iterable[Node]) -> Iterable[Node]:
    for node in nodes:
        yield node
        for graph in protos.inner_graphs(node):
            yield from graph.node


def _check_calls(model: onnx.ModelProto) -> None:
    """How many nodes there will be once all calls are inlined: calls multiply."""
    bodies: dict[Key, onnx.FunctionProto] = {
        (each.domain, each.name, each.overload): each for each in model.functions
    }
    sizes: dict[Key, int] = {}

    def size(nodes: Iterable[Node], calls: tuple[Key, ...]) -> int:
        total = 0
        for node in _all(nodes):
            key = (node.domain, node.op_type, node.overload)
            if key not in bodies:
                total += 1
                continue
            if key in calls or len(calls) == MAX_DEPTH:
                what = "calls itself" if key in calls else "is called from too many others"
                raise InvalidError(f"function {node.op_type} {what}")
            if key not in sizes:
                sizes[key] = size(bodies[key].node, (*calls, key))
            total += sizes[key]
        return total

    if size(model.graph.node, ()) > MAX_NODES:
        raise InvalidError(f"its functions come to more than {MAX_NODES:,} nodes")
