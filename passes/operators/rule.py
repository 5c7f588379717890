"""What the pass must know about an operator: four functions, one row of the table in rules.py."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import Axes, Mask
from prunedeploy.passes.analysis.facts import Facts

if TYPE_CHECKING:
    from prunedeploy.passes.operators.layers import Layer

# Axes that an operator sums over or mixes, and which of their indices it needs.
Reads = list[tuple[ir.Value, int, Mask]]


class Keep:
    """Which indices of every cut axis stay; an axis that is not here stays whole."""

    def __init__(self, masks: Mapping[tuple[ir.Value, int], Mask]) -> None:
        self._masks = masks

    def of(self, value: ir.Value | None, axis: int) -> Mask | None:
        """True for the indices that stay; None when none goes."""
        return None if value is None else self._masks.get((value, axis))

    def items(self) -> list[tuple[ir.Value, int, Mask]]:
        """All cut axes."""
        return [(value, axis, mask) for (value, axis), mask in self._masks.items()]


@dataclass(frozen=True)
class Rule:
    """One operator.

    ``couple`` ties the axes of its inputs and outputs: what must be cut together, what cannot be
    cut. ``constants`` carries known constants from inputs to outputs. ``edit`` adapts what is
    written in the node itself, attributes and shape inputs; initializers that carry labels are
    sliced by the editor without the rule's help. ``reads`` is for an operator that mixes the
    indices of an axis that may nevertheless be cut: those it needs, because they are not known to
    add nothing. They count as live, whether or not anybody reads the result. ``layers`` is for an
    operator with several weights: what it reads through each, row by row.
    """

    couple: Callable[[ir.Node, Axes], None]
    constants: Callable[[ir.Node, Facts], None] | None = None
    edit: Callable[[ir.Node, Keep], None] | None = None
    reads: Callable[[ir.Node, Facts], Reads] | None = None
    layers: Callable[[ir.Node], list[Layer]] | None = None


def wall(node: ir.Node, axes: Axes) -> None:
    """Couple rule of an operator that nothing is known about: it keeps all it touches."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            axes.pin(value, f"{operator} ({node.name})")


def pin_parameters(node: ir.Node, axes: Axes, first: int = 1) -> None:
    """Shapes, indices and bounds are read entry by entry: none of them may go."""
    for value in node.inputs[first:]:
        if value is not None:
            axes.pin(value, f"{node.op_type} ({node.name})")


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
