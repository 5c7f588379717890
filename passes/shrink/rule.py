"""What the pass must know about an operator: three functions, one row of the table in rules.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.shrink.axes import Axes, Mask
from prunedeploy.passes.shrink.facts import Facts


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
    sliced by the editor without the rule's help.
    """

    couple: Callable[[ir.Node, Axes], None]
    constants: Callable[[ir.Node, Facts], None] | None = None
    edit: Callable[[ir.Node, Keep], None] | None = None


def wall(node: ir.Node, axes: Axes) -> None:
    """Couple rule of an operator that nothing is known about: it keeps all it touches."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            axes.pin(value, f"{operator} ({node.name})")


def unique_name(graph: ir.Graph, name: str) -> str:
    """``name``, or with a number behind it if a node or value is called so already."""
    taken = {node.name for node in graph} | set(graph.initializers)
    taken |= {value.name for node in graph for value in (*node.inputs, *node.outputs) if value}
    numbered, count = name, 1
    while numbered in taken:
        count += 1
        numbered = f"{name}.{count}"
    return numbered


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
