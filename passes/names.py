"""Names that are not taken yet in a graph, and the nodes and initializers that a pass adds."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

NAMES = "prunedeploy.names"  # under which a graph keeps them while it is edited


@contextmanager
def naming(graph: ir.Graph) -> Iterator[None]:
    """Names are collected once for all the new ones that the block asks for."""
    graph.meta[NAMES] = names(graph)
    try:
        yield
    finally:
        del graph.meta[NAMES]


def names(graph: ir.Graph) -> set[str]:
    """The names of all nodes and values, those of bodies included."""
    if (kept := graph.meta.get(NAMES)) is not None:
        return typing.cast(set[str], kept)
    nodes = list(graph.all_nodes())
    taken = {str(node.name) for node in nodes} | set(graph.initializers)
    taken |= {name for inner in graph.subgraphs() for name in inner.initializers}
    values = (value for node in nodes for value in (*node.inputs, *node.outputs))
    return taken | {str(value.name) for value in values if value is not None}


def unused(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it if it is taken; from now on it is."""
    numbered, count = name, 1
    while numbered in taken:
        count += 1
        numbered = f"{name}.{count}"
    taken.add(numbered)
    return numbered


def unique_name(graph: ir.Graph, name: str) -> str:
    """``name``, or with a number behind it if a node or value is called so already."""
    return unused(name, names(graph))


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    assert isinstance(node.graph, ir.Graph)  # functions are inlined before a pass edits anything
    return node.graph


def initializer(name: str | None, array: NDArray[np.generic]) -> ir.Value:
    """A constant that belongs to no graph yet."""
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.asarray(array, order="C"), name=name),
    )


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer of ``graph``; ``name`` must not be taken."""
    value = initializer(name, array)
    graph.register_initializer(value)
    return value


def put_before(node: ir.Node, new: ir.Node, name: str, result: str = "0") -> ir.Value:
    """Name ``new`` and put it before ``node``; return its first result, named after it."""
    graph, value = graph_of(node), new.outputs[0]
    new.name = unique_name(graph, name)
    graph.insert_before(node, new)
    value.name = unique_name(graph, f"{new.name}.{result}")
    return value


def put_behind(node: ir.Node, operator: str, name: str, before: str) -> ir.Node:
    """A binary node behind ``node`` that all its readers read instead, its second operand open.

    The new node is named after ``node`` with ``name``, what it reads with ``before``.
    """
    graph, result = graph_of(node), node.outputs[0]
    new = ir.node(operator, [result])
    new.name = unique_name(graph, f"{node.name or result.name}.{name}")
    value = new.outputs[0]
    value.shape, value.type = result.shape, result.type
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    value.name, result.name = result.name, unique_name(graph, f"{result.name}.{before}")
    new.replace_input_with(0, result)
    graph.insert_after(node, new)
    return new


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be read in the place of ``old``, with its shape, type and name."""
    new.shape, new.type, name = old.shape, old.type, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, name


def become_identity(node: ir.Node, source: ir.Value | None) -> None:
    """Put an Identity of ``source``, under the names of ``node``, in the place of ``node``."""
    graph, identity = graph_of(node), ir.node("Identity", [source], name=node.name)
    graph.insert_after(node, identity)
    replace_value(node.outputs[0], identity.outputs[0])
    graph.remove(node, safe=True)


def replace_input(node: ir.Node, index: int, array: NDArray[np.generic], hint: str) -> None:
    """Give ``node`` its own new initializer in place of an input; others may share the old one."""
    graph = graph_of(node)
    name = unique_name(graph, f"{hint}.{node.name or node.outputs[0].name}")
    value = add_initializer(graph, name, array)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
