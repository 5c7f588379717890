"""Rules for Resize and Upsample: batch and channels pass where they keep their length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.analysis.ranges import ANYTHING, Range, Ranges, everywhere, unit, widened
from prunedeploy.passes.analysis.shape_targets import entries, retarget, rewritable
from prunedeploy.passes.operators.channelwise import number_channels
from prunedeploy.passes.operators.intervals import kept
from prunedeploy.passes.operators.operator import Keep, Operator, opaque, pin_parameters


def couple_resize(node: ir.Node, axes: Axes) -> None:
    """An axis of unchanged length passes, where sizes are given if its own can be rewritten."""
    source, result = node.inputs[0], node.outputs[0]
    crops = _transformation(node) == "tf_crop_and_resize"
    if source is None or rank(source) is None or rank(result) != rank(source) or crops:
        opaque(node, axes)
        return
    pin_parameters(node, axes)
    for axis in range(rank(source) or 0):
        if axis < 2 and _stays(node, axis):
            axes.assign(result, axis, axes.of(source, axis))
        else:
            axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
            axes.pin_axis(result, axis)


def _transformation(node: ir.Node) -> str:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel")


def _entry(node: ir.Node, axis: int) -> int | None:
    """Where scales and sizes speak of an axis; None: they do not, it stays as it is."""
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    listed = node.attributes.get_ints("axes", None)
    if listed is None:
        return axis
    chosen = [position % (width or 1) for position in listed]
    return chosen.index(axis) if axis in chosen else None


def _sizes(node: ir.Node) -> ir.Value | None:
    """The input that gives lengths instead of scales."""
    return node.inputs[3] if len(node.inputs) > 3 else None


def _stays(node: ir.Node, axis: int) -> bool:
    """Whether the axis keeps its length, and still would if it were shorter."""
    entry, sizes = _entry(node, axis), _sizes(node)
    if entry is None:
        return True
    if sizes is None:
        return _scale(node, entry) == 1.0
    size = static_size(node.inputs[0], axis) if node.inputs[0] is not None else None
    asked, free = entries(sizes) or [], rewritable(sizes)
    return (
        _stretches(node)
        and size is not None
        and asked[entry : entry + 1] == [size]
        and free[entry : entry + 1] == [True]
    )


def unscaled(node: ir.Node, axis: int) -> bool:
    """Whether indices of an axis stay where they are, if it is as long as before."""
    entry = _entry(node, axis)
    if entry is None or (_sizes(node) is not None and _stretches(node)):
        return True
    return _sizes(node) is None and _scale(node, entry) == 1.0


def _stretches(node: ir.Node) -> bool:
    return node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"


def _scale(node: ir.Node, entry: int) -> float | None:
    index = 2 if len(node.inputs) > 2 else 1  # a region comes first from opset 11 on
    given = node.inputs[index] if len(node.inputs) > 1 else None
    scales = constant_array(given) if given is not None else None
    if scales is None:
        scales = np.array(node.attributes.get_floats("scales", []))
    return float(scales[entry]) if entry < scales.size else None


def resize_constants(node: ir.Node, facts: Facts) -> None:
    """Interpolation weights add up to one, so a constant stays what it is."""
    source, result = node.inputs[0], node.outputs[0]
    crops = _transformation(node) == "tf_crop_and_resize"
    if source is not None and (rank(source) or 0) > 1 and not crops and _stays(node, 1):
        facts.learn(result, 1, facts.of(source, 1))


def edit_resize(node: ir.Node, keep: Keep) -> None:
    """The sizes name fewer channels."""
    if _sizes(node) is None:
        return
    left = keep.left(node.outputs[0], range(2))
    sizes = {entry: left[axis] for axis in left if (entry := _entry(node, axis)) is not None}
    if sizes:
        retarget(node, 3, sizes)


def resize_range(node: ir.Node, ranges: Ranges) -> Range:
    """Weights of interpolation are positive and add up to one, but for cubic ones and crops."""
    mode = node.attributes.get_string("mode", "nearest")
    crops = node.attributes.get_string("coordinate_transformation_mode", "").startswith("tf_crop")
    if mode not in ("nearest", "linear") or crops:
        return ANYTHING
    axis = ranges.of(node.inputs[0]).axis
    if axis is None or unscaled(node, axis):
        bounds = kept(node, ranges)
    else:
        bounds = everywhere(*ranges.of(node.inputs[0]).hull())
    error = 64 * unit(node.outputs[0]) if mode == "linear" else 0.0
    size = np.maximum(np.abs(bounds.low), np.abs(bounds.high))
    size = np.where(np.isfinite(size), size, 0.0)
    return Range(*widened(bounds.low, bounds.high, error, size), bounds.axis) if error else bounds


_RESIZE = Operator(
    "Resize",
    couple=couple_resize,
    constants=resize_constants,
    ranges=resize_range,
    number=number_channels,
    edit=edit_resize,
)

OPERATORS = (_RESIZE, replace(_RESIZE, name="Upsample", edit=None))
