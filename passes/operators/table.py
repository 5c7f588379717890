"""The table of operators, collected from the families. To teach the passes an operator, add a
record to the file of its family; what has none is opaque, and a note names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from prunedeploy.passes.operators import (
    channelwise,
    convolutions,
    elementwise,
    joins,
    norms,
    pixel_blocks,
    products,
    quantised,
    recurrent,
    reductions,
    repeats,
    reshapes,
    resizing,
    selections,
    shape_readers,
    softmax,
    sweeps,
    transpose,
    windows,
)
from prunedeploy.passes.operators.elementwise import ELEMENTWISE
from prunedeploy.passes.operators.layers import Layer, readable
from prunedeploy.passes.operators.operator import Operator
from prunedeploy.reference.opsets import opset

FAMILIES = (
    *(channelwise, convolutions, elementwise, joins, norms, pixel_blocks, products, quantised),
    *(recurrent, reductions, repeats, reshapes, resizing, selections, shape_readers, softmax),
    *(sweeps, transpose, windows),
)
OPAQUE = Operator("")  # stands for every operator without a record


def by_name(records: Iterable[Operator]) -> dict[str, Operator]:
    """The records by the operator's name.

    Raises:
        ValueError: two records have the same name.
    """
    table: dict[str, Operator] = {}
    for record in records:
        if record.name in table:
            raise ValueError(f"the operator {record.name} has two records")
        table[record.name] = record
    return table


OPERATORS = by_name(record for family in FAMILIES for record in family.OPERATORS)


def operator(node: ir.Node) -> Operator:
    """The record of a node's operator; ``OPAQUE`` where there is none."""
    if node.domain not in ("", "ai.onnx") or _old_broadcasting(node):
        return OPAQUE
    return OPERATORS.get(node.op_type, OPAQUE)


def _old_broadcasting(node: ir.Node) -> bool:
    """Before opset 7 operands were aligned by attributes, and a PRelu's slopes with axis 1."""
    named = "broadcast" in node.attributes or node.op_type == "PRelu"
    return opset(node) < 7 and named and node.op_type in ELEMENTWISE


def layer_of(node: ir.Node) -> Layer | None:
    """The node as a layer, or None if it is not one, or not of a form that is understood."""
    read = operator(node).layer
    layer = read(node) if read is not None else None
    if layer is None or not readable(layer):
        return None
    # weights that are dequantised stay as they are stored, so their groups cannot be cut apart
    return replace(layer, equal_groups=layer.weight.const_value is None)
