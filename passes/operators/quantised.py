"""Rules for QuantizeLinear and DequantizeLinear, on activations and on weights.

A weight that is dequantised from an initializer is a weight like any other (see ``layers``): what
is cut is the initializer of integers, with its scales and zero points.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.operators.rule import wall


def _axis(node: ir.Node) -> int:
    """The axis that scales run along, where there are several."""
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    return int(node.attributes.get_int("axis", 1)) % (width or 1)


def _whole(node: ir.Node) -> bool:
    """One scale for all, or one for each index of an axis; no blocks along an axis."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    blocks = node.attributes.get_int("block_size", 0)
    return not blocks and all(rank(value) in (0, 1) for value in parameters)


def couple_scaled(node: ir.Node, axes: Axes) -> None:
    """Every axis passes; scales and zero points go with their index."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or rank(result) != rank(source) or not _whole(node):
        wall(node, axes)
        return
    for axis in range(rank(source) or 0):
        axes.assign(result, axis, axes.of(source, axis))
    for value in node.inputs[1:]:
        if value is None or rank(value) != 1:
            continue
        size = static_size(source, _axis(node))
        if static_size(value, 0) == size is not None and size != 1:
            axes.assign(value, 0, axes.of(source, _axis(node)))
        else:
            axes.pin(value, f"{node.op_type} ({node.name})")


def _parameter(node: ir.Node, index: int, axis: int, facts: Facts) -> Constants | None:
    """The scale or zero point of each index of an axis; None: it varies along another axis."""
    value = node.inputs[index] if index < len(node.inputs) else None
    size = static_size(node.outputs[0], axis) or 0
    if value is None:
        return np.zeros(size) if index == 2 else None
    if (number := facts.uniform(value)) is not None:
        return np.full(size, number)
    return facts.of(value, 0) if axis == _axis(node) and rank(value) == 1 else None


def quantised_constants(node: ir.Node, facts: Facts) -> None:
    """Zero becomes the zero point exactly; other constants may be rounded either way."""
    source = node.inputs[0]
    if source is None or not _whole(node):
        return
    for axis in facts.axes(source):
        known, zero = facts.of(source, axis), _parameter(node, 2, axis, facts)
        scale = _parameter(node, 1, axis, facts)
        if known is not None and zero is not None and scale is not None:
            facts.learn(node.outputs[0], axis, np.where((known == 0) & (scale > 0), zero, np.nan))


def dequantised_constants(node: ir.Node, facts: Facts) -> None:
    """(q - zero point) * scale."""
    source, dtype = node.inputs[0], node.outputs[0].dtype
    if source is None or dtype is None or not _whole(node):
        return
    for axis in facts.axes(source):
        known, zero = facts.of(source, axis), _parameter(node, 2, axis, facts)
        scale = _parameter(node, 1, axis, facts)
        if known is not None and zero is not None and scale is not None:
            facts.learn(node.outputs[0], axis, (known - zero) * scale)


def dequantised(value: ir.Value) -> Array | None:
    """What a value holds that is dequantised from initializers; None for any other."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return None
    tensors = [each.const_value for each in node.inputs if each is not None]
    if len(tensors) != len(node.inputs) or None in tensors or not _whole(node):
        return None
    integers, scale, *zero = (tensor.numpy() for tensor in tensors if tensor is not None)
    along = [1] * integers.ndim
    if scale.size > 1:
        along[_axis(node)] = -1
    wide = np.float64 if scale.dtype == np.float64 else np.float32
    offset = zero[0].astype(np.float64) if zero else np.zeros(())
    steps = integers.astype(np.float64) - offset.reshape(along if offset.size > 1 else ())
    return np.asarray((steps * scale.reshape(along if scale.size > 1 else ())).astype(wide))
