"""Rules for QuantizeLinear and DequantizeLinear, on activations and on weights.

A weight that is dequantised from an initializer is a weight like any other (see ``layers``): what
is cut is the initializer of integers, with its scales and zero points.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.analysis.quantised_weights import is_whole, scale_axis
from prunedeploy.passes.operators.operator import Operator, opaque

TIE = 2.0**-16  # so near to the middle of two steps, relative to both, float32 may round either way


def couple_scaled(node: ir.Node, axes: Axes) -> None:
    """Every axis passes; scales and zero points go with their index."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or rank(result) != rank(source) or not is_whole(node):
        opaque(node, axes)
        return
    axes.share(source, result)
    for value in node.inputs[1:]:
        if value is None or rank(value) != 1:
            continue
        size = static_size(source, scale_axis(node))
        if static_size(value, 0) == size is not None and size != 1:
            axes.assign(value, 0, axes.of(source, scale_axis(node)))
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
    return facts.of(value, 0) if axis == scale_axis(node) and rank(value) == 1 else None


def _scaled(node: ir.Node, facts: Facts) -> Iterator[tuple[int, Constants, Constants, Constants]]:
    """Each axis with its constants, scales and zero points, where all of them are known."""
    source = node.inputs[0]
    if source is None or not is_whole(node):
        return
    for axis in facts.axes(source):
        known, scale = facts.of(source, axis), _parameter(node, 1, axis, facts)
        zero = _parameter(node, 2, axis, facts)
        if known is not None and zero is not None and scale is not None:
            yield axis, known, scale, zero


def quantised_constants(node: ir.Node, facts: Facts) -> None:
    """A constant becomes its step; in the middle of two it may become either, so it is none."""
    kind = node.outputs[0].dtype
    for axis, known, scale, zero in _scaled(node, facts):
        steps = known / np.where(scale > 0, scale, np.nan)
        if kind is None or not kind.is_integer():
            facts.learn(node.outputs[0], axis, np.where(steps == 0, zero, np.nan))
            continue
        limits = ml_dtypes.iinfo(kind.numpy())  # type: ignore[no-untyped-call]
        sure = np.abs(steps - np.floor(steps) - 0.5) > TIE * np.maximum(np.abs(steps), 1)
        step = np.clip(np.rint(steps) + zero, int(limits.min), int(limits.max))
        facts.learn(node.outputs[0], axis, np.where(sure, step, np.nan))


def dequantised_constants(node: ir.Node, facts: Facts) -> None:
    """(q - zero point) * scale, rounded to the type of the result as the operator does."""
    kind = node.outputs[0].dtype
    if kind is not None:
        for axis, known, scale, zero in _scaled(node, facts):
            product = ((known - zero) * scale).astype(kind.numpy())
            facts.learn(node.outputs[0], axis, product.astype(np.float64))


OPERATORS = (
    Operator("DequantizeLinear", couple=couple_scaled, constants=dequantised_constants),
    Operator("QuantizeLinear", couple=couple_scaled, constants=quantised_constants),
)
