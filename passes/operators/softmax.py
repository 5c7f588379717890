"""Softmax and its kin, which normalise along axes."""

from __future__ import annotations

import math

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank
from prunedeploy.passes.operators.intervals import between
from prunedeploy.passes.operators.operator import Operator, opaque, read_besides
from prunedeploy.reference.opsets import softmax_axes


def couple_softmax(node: ir.Node, axes: Axes) -> None:
    """The axes that are normalised cannot be cut; the others pass."""
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None or rank(result) != width or read_besides(node):
        opaque(node, axes)
        return
    mixed = softmax_axes(node, width) if width else ()
    for position in range(width):
        if position in mixed:
            axes.pin_axis(source, position, f"{node.op_type} ({node.name})")
            axes.pin_axis(result, position)
        else:
            axes.assign(result, position, axes.of(source, position))


OPERATORS = (
    Operator("Hardmax", couple=couple_softmax, ranges=between(0.0, 1.0)),
    Operator("LogSoftmax", couple=couple_softmax, ranges=between(-math.inf, 0.0)),
    Operator("Softmax", couple=couple_softmax, ranges=between(0.0, 1.0)),
)
