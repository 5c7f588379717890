"""The record of an operator: all that the passes know of it, one function an analysis.

Every family of operators is a file of this folder that ends with its records; ``table.py`` collects
them. A field left out means that the operator is opaque to that analysis: the analysis takes it to
compute anything, and the result stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Labels, Mask
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.ranges import Range, Ranges
from prunedeploy.passes.analysis.value_numbers import ValueNumbers
from prunedeploy.passes.operators.layers import Layer

# Axes that an operator sums over or mixes, and which of their indices it needs.
Reads = list[tuple[ir.Value, int, Mask]]
# A value, its axis, and the new order of it: index i is to hold what was at index order[i].
AxisOrder = tuple[ir.Value, int, Labels]
# The new indices of every Gather along an axis that is reordered.
Indices = dict[ir.Node, Labels]


class Keep:
    """Which indices of every cut axis stay; an axis that is not here stays whole."""

    def __init__(self, masks: Mapping[tuple[ir.Value, int], Mask]) -> None:
        self._masks = masks

    def of(self, value: ir.Value | None, axis: int) -> Mask | None:
        """True for the indices that stay; None when none goes."""
        return None if value is None else self._masks.get((value, axis))

    def left(self, value: ir.Value, axes: Iterable[int]) -> dict[int, int]:
        """How many indices stay of each of these axes that is cut."""
        masks = {axis: self.of(value, axis) for axis in axes}
        return {axis: int(mask.sum()) for axis, mask in masks.items() if mask is not None}

    def items(self) -> list[tuple[ir.Value, int, Mask]]:
        """All cut axes."""
        return [(value, axis, mask) for (value, axis), mask in self._masks.items()]


@dataclass(frozen=True)
class Operator:
    """The rules for the operator ``name`` of the ONNX standard.

    Args:
        name: the operator's type in the default domain.
        couple: ties the axes of inputs and outputs: what must be cut together, and what cannot be
            cut. An operator without it keeps all that it touches.
        constants: carries known constants from the inputs to the outputs.
        maps: returns the channels (axis 1) of the result whose constant feature map follows from
            constants and constant feature maps; the evaluator computes the maps themselves.
        ranges: returns the range of the first result.
        moves_elements: every element of a result is an element of an input that is data, so that
            ranges move as ``constants`` moves constants.
        selects_elements: every element of the result is an element of an input, a bound, a padding
            or a sign: ``ranges`` holds for integers too.
        number: numbers the slices of the results (see ``value_numbering``).
        reorder: returns which other axes must take the new order of one of the node's axes, None
            where the operator does not let the order pass.
        reads: returns the indices an operator needs of axes that it mixes and that may be cut
            nevertheless, because the others are known to add nothing. They count as live,
            whether or not anybody reads the result.
        edit: adapts what is written in the node itself, attributes and shape inputs;
            initializers that carry labels are sliced without its help.
        layer: reads the node as a layer with weights, None where it is of no known form; then the
            other fields apply.
        inner_layers: returns what an operator with several weights reads through each, row by row.
    """

    name: str
    couple: Callable[[ir.Node, Axes], None] | None = None
    constants: Callable[[ir.Node, Facts], None] | None = None
    maps: Callable[[ir.Node, Facts], Mask | None] | None = None
    ranges: Callable[[ir.Node, Ranges], Range] | None = None
    moves_elements: bool = False
    selects_elements: bool = False
    number: Callable[[ir.Node, ValueNumbers], None] | None = None
    reorder: Callable[[ir.Node, AxisOrder, Indices], list[AxisOrder] | None] | None = None
    reads: Callable[[ir.Node, Facts], Reads] | None = None
    edit: Callable[[ir.Node, Keep], None] | None = None
    layer: Callable[[ir.Node], Layer | None] | None = None
    inner_layers: Callable[[ir.Node], list[Layer]] | None = None


def opaque(node: ir.Node, axes: Axes) -> None:
    """Couple an operator that nothing is known about: it keeps all that it touches."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            axes.pin(value, f"{operator} ({node.name})")


def pin_parameters(node: ir.Node, axes: Axes, first: int = 1) -> None:
    """Shapes, indices and bounds are read entry by entry: none of them may go."""
    for value in node.inputs[first:]:
        if value is not None:
            axes.pin(value, f"{node.op_type} ({node.name})")


def read_besides(node: ir.Node) -> bool:
    """Whether anybody reads the results after the first: masks, indices, statistics."""
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
