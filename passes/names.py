"""Names that are not taken yet in a graph, and initializers that a pass adds."""

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


def replace_input(node: ir.Node, index: int, array: NDArray[np.generic], hint: str) -> None:
    """Give ``node`` its own new initializer in place of an input; others may share the old one."""
    graph = node.graph
    assert graph is not None
    name = unique_name(graph, f"{hint}.{node.name or node.outputs[0].name}")
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
