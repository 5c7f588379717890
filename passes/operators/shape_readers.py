"""Shape, which reads the lengths of axes and none of their elements."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.operators.operator import Operator
from prunedeploy.passes.operators.selections import slice_bounds


def couple_shape(node: ir.Node, axes: Axes) -> None:
    """Who asks for the length of an axis sees it being cut: the axes asked for stay whole."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None:
        return
    first = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", width)
    asked = list(range(width))[first:end]
    readers = [use.node for use in node.outputs[0].uses()]
    picked = [_picked(reader, node.outputs[0], len(asked)) for reader in readers]
    if readers and not node.outputs[0].is_graph_output() and None not in picked:
        asked = [asked[index] for indices in picked for index in indices or []]
    for axis in asked:
        axes.pin_axis(source, axis, f"Shape ({node.name})")


def _picked(reader: ir.Node, shape: ir.Value, count: int) -> list[int] | None:
    """The entries of a shape that a Gather or Slice of it takes; None where that is not known."""
    if not reader.inputs or reader.inputs[0] is not shape:
        return None
    if reader.op_type == "Slice" and (bounds := slice_bounds(reader)) is not None:
        start, end, _, step = (bound.tolist() for bound in bounds)
        return list(range(count))[slice(start[0], end[0], step[0])] if len(start) == 1 else None
    if reader.op_type != "Gather" or (array := constant_array(reader.inputs[1])) is None:
        return None
    indices = [int(index) for index in array.reshape(-1)]
    return indices if all(-count <= index < count for index in indices) else None


OPERATORS = (Operator("Shape", couple=couple_shape),)
