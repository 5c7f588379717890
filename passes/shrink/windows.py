"""Rules for pools, reductions and resizing: some axes are swept, the others pass."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.shrink.axes import Axes, rank
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.pointwise import read_besides
from prunedeploy.passes.shrink.rule import wall

KEEPS_CONSTANTS = ("ReduceMean", "ReduceMax", "ReduceMin")


def couple_pool(node: ir.Node, axes: Axes) -> None:
    """Batch and channels pass, the window's axes stay whole."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or read_besides(node):
        wall(node, axes)
        return
    if rank(result) != rank(source):
        wall(node, axes)
        return
    for axis in range(rank(source) or 0):
        if axis < 2:
            axes.assign(result, axis, axes.of(source, axis))
        else:
            axes.pin_axis(source, axis)
            axes.pin_axis(result, axis)


def pool_constants(node: ir.Node, facts: Facts) -> None:
    """The window of a constant holds it, unless zeros of the padding are counted in."""
    source = node.inputs[0]
    known = facts.of(source, 1) if source is not None else None
    if known is None:
        return
    exact = node.op_type in ("MaxPool", "GlobalMaxPool", "GlobalAveragePool")
    if not exact and node.attributes.get_int("count_include_pad", False):
        padded = any(node.attributes.get_ints("pads", [0])) or node.attributes.get_string(
            "auto_pad", "NOTSET"
        ).startswith("SAME")
        known = np.where((known == 0) | (not padded), known, np.nan)
    facts.learn(node.outputs[0], 1, known)


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes a Reduce operator sums over, counted from the front; None when not known."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if width is None:
        return None
    if "axes" in node.attributes:
        return [axis % width for axis in node.attributes.get_ints("axes", [])]
    if len(node.inputs) < 2 or node.inputs[1] is None:
        noop = node.attributes.get_int("noop_with_empty_axes", False)
        return [] if noop else list(range(width))
    array = constant_array(node.inputs[1])
    return None if array is None else [int(axis) % width for axis in array.reshape(-1)]


def _surviving(node: ir.Node) -> list[tuple[int, int]] | None:
    """(axis before, axis after) of the axes a Reduce operator leaves alone."""
    source, reduced = node.inputs[0], reduced_axes(node)
    if source is None or reduced is None:
        return None
    left = [axis for axis in range(rank(source) or 0) if axis not in reduced]
    if node.attributes.get_int("keepdims", True):
        return [(axis, axis) for axis in left]
    return [(axis, position) for position, axis in enumerate(left)]


def couple_reduce(node: ir.Node, axes: Axes) -> None:
    """Reduced axes cannot be cut (a mean over channels counts them); the others pass."""
    source, passing = node.inputs[0], _surviving(node)
    if source is None or passing is None:
        wall(node, axes)
        return
    before = {a for a, _ in passing}
    for axis in set(range(rank(source) or 0)) - before:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name}) over axis {axis}")
    for axis, position in passing:
        axes.assign(node.outputs[0], position, axes.of(source, axis))
    for axis in set(range(rank(node.outputs[0]) or 0)) - {p for _, p in passing}:
        axes.pin_axis(node.outputs[0], axis)


def reduce_constants(node: ir.Node, facts: Facts) -> None:
    """Means and extremes of a constant are the constant; sums and norms only where it is 0."""
    source, passing = node.inputs[0], _surviving(node)
    if source is None or passing is None:
        return
    for axis, position in passing:
        known = facts.of(source, axis)
        if known is not None and node.op_type not in KEEPS_CONSTANTS:
            summing = node.op_type in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
            known = np.where((known == 0) & summing, 0.0, np.nan)
        facts.learn(node.outputs[0], position, known)


def couple_resize(node: ir.Node, axes: Axes) -> None:
    """Axes of unchanged length pass when scales say so; given sizes they would need rewriting."""
    source, result = node.inputs[0], node.outputs[0]
    by_size = len(node.inputs) > 3 and node.inputs[3] is not None
    if source is None or rank(source) is None or rank(result) != rank(source) or by_size:
        wall(node, axes)
        return
    for axis in range(rank(source) or 0):
        if axis < 2 and _scale(node, axis) == 1.0:
            axes.assign(result, axis, axes.of(source, axis))
        else:
            axes.pin_axis(source, axis)
            axes.pin_axis(result, axis)


def _scale(node: ir.Node, axis: int) -> float | None:
    """How much longer the axis becomes, None where that is not known."""
    given = node.inputs[-1] if len(node.inputs) > 1 else None
    scales = constant_array(given) if given is not None else None
    if scales is None:
        scales = np.array(node.attributes.get_floats("scales", []))
    return float(scales[axis]) if axis < scales.size else None


def resize_constants(node: ir.Node, facts: Facts) -> None:
    """Interpolation weights add up to one, so a constant stays what it is."""
    source, result = node.inputs[0], node.outputs[0]
    crops = node.attributes.get_string("coordinate_transformation_mode", "").startswith("tf_crop")
    if source is not None and not crops and _scale(node, 1) == 1.0:
        facts.learn(result, 1, facts.of(source, 1))
