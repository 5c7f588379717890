"""Rules for reductions: the axes reduced over lose what adds nothing, the others pass.

A reduction mixes the indices of an axis, and still one of them can go when it holds the number
that the reduction does not notice: zero in a sum, one in a product. A mean counts its terms, so
what is cut from it must still be counted: the mean of those that stay times N'/N, N indices before
and N' after.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.analysis.feature_maps import held_beside_constants
from prunedeploy.passes.analysis.ranges import ANYTHING, Range, Ranges, everywhere
from prunedeploy.passes.names import put_behind, replace_input
from prunedeploy.passes.operators.intervals import element_count, mean
from prunedeploy.passes.operators.operator import AxisOrder, Indices, Keep, Operator, Reads, opaque

KEEPS_CONSTANTS = ("ReduceMean", "ReduceMax", "ReduceMin")
SUMMING = ("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")
# The number that each reduction does not notice; extremes are looked at by themselves.
NEUTRAL = {
    **dict.fromkeys((*SUMMING, "ReduceMean", "ReduceLogSum"), 0.0),
    "ReduceProd": 1.0,
    "ReduceLogSumExp": -np.inf,
}


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes a Reduce operator goes over, counted from the front; None when not known."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if width is None:
        return None
    given: list[int] | None = list(node.attributes.get_ints("axes", []))
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant_array(node.inputs[1])
        given = None if array is None else [int(axis) for axis in array.reshape(-1)]
    if given is None:
        return None
    if not given and not node.attributes.get_int("noop_with_empty_axes", False):
        return list(range(width))
    return sorted({axis % width for axis in given})


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
    """The other axes pass; those reduced over are free, but for what ``needed`` says.

    A mean of integers is rounded, which no factor mends.
    """
    source, result, passing = node.inputs[0], node.outputs[0], _surviving(node)
    if source is None or passing is None or rank(result) is None:
        opaque(node, axes)
        return
    floating = source.dtype is not None and source.dtype.is_floating_point()
    for axis in reduced_axes(node) or []:
        if node.op_type == "ReduceMean" and not floating:
            axes.pin_axis(source, axis, f"{node.op_type} ({node.name}) of integers")
        axes.of(source, axis)
    for axis, position in passing:
        axes.assign(result, position, axes.of(source, axis))
    for axis in set(range(rank(result) or 0)) - {p for _, p in passing}:
        axes.pin_axis(result, axis)


def reduce_constants(node: ir.Node, facts: Facts) -> None:
    """Means and extremes of a constant are the constant; sums and norms only where it is 0."""
    source, passing = node.inputs[0], _surviving(node)
    if source is None or passing is None:
        return
    for axis, position in passing:
        known = facts.of(source, axis)
        if known is not None and node.op_type not in KEEPS_CONSTANTS:
            known = np.where((known == 0) & (node.op_type in SUMMING), 0.0, np.nan)
        facts.learn(node.outputs[0], position, known)


def needed(node: ir.Node, facts: Facts) -> Reads:
    """The axes reduced over, and which of their indices the result notices."""
    source = node.inputs[0]
    return [
        (source, axis, _noticed(node.op_type, facts.along(source, axis)))
        for axis in reduced_axes(node) or []
        if source is not None and static_size(source, axis) is not None
    ]


def _noticed(operator: str, known: Constants) -> Mask:
    """All that varies, and of the constants those other than the neutral number.

    A maximum notices the largest of its constants, once; a minimum the smallest.
    """
    if operator not in ("ReduceMax", "ReduceMin"):
        return np.asarray(known != NEUTRAL[operator])
    noticed = np.isnan(known)
    if not noticed.all():
        noticed[np.nanargmax(known) if operator == "ReduceMax" else np.nanargmin(known)] = True
    return noticed


def edit_reduce(node: ir.Node, keep: Keep) -> None:
    """A ReduceMean over fewer indices is multiplied by how many there are over how many there were.

    Rounds of the pass share one multiplication: the factor goes into one that is there already.
    """
    source = node.inputs[0]
    if source is None:
        return
    masks = [m for a in reduced_axes(node) or [] if (m := keep.of(source, a)) is not None]
    factor = float(np.prod([np.mean(mask) for mask in masks]))
    if not masks or _scale_reader(node, factor):
        return
    result = node.outputs[0]
    assert result.dtype is not None
    scale = put_behind(node, "Mul", "counted", "uncounted")
    scale.outputs[0].shape = _cut_shape(result, keep)
    replace_input(scale, 1, np.array(factor, result.dtype.numpy()), "factor")


def _scale_reader(node: ir.Node, factor: float) -> bool:
    """Whether the only reader is a multiplication by one number, which now takes the factor in."""
    result = node.outputs[0]
    uses = list(result.uses())
    if len(uses) != 1 or result.is_graph_output() or uses[0].node.op_type != "Mul":
        return False
    reader, index = uses[0].node, 1 - uses[0].idx
    number = constant_array(reader.inputs[index])
    if number is None or number.size != 1 or reader.graph is not node.graph:
        return False
    if number.itemsize < 4:  # half precision: the product might round to nothing
        return False
    scaled = (number.astype(np.float64) * factor).astype(number.dtype)
    replace_input(reader, index, scaled, "factor")
    return True


def _cut_shape(value: ir.Value, keep: Keep) -> ir.Shape | None:
    if value.shape is None:
        return None
    masks = [keep.of(value, axis) for axis in range(len(value.shape))]
    return ir.Shape(
        [d if m is None else int(m.sum()) for d, m in zip(value.shape, masks, strict=True)]
    )


def reduce_range(node: ir.Node, ranges: Ranges) -> Range:
    """Extremes, means and sums over some axes; of norms no more than that they are not negative."""
    source, result, reduced = node.inputs[0], node.outputs[0], reduced_axes(node)
    if node.op_type in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
        return everywhere(0.0, math.inf)
    if source is None or reduced is None:
        return ANYTHING
    bounds = ranges.of(source)
    axis = bounds.axis
    if axis in reduced or axis is None:
        bounds, axis = everywhere(*bounds.hull()), None
    elif not node.attributes.get_int("keepdims", True):
        axis -= sum(before < axis for before in reduced)
    if axis is not None and static_size(result, axis) != len(bounds.low):
        return ANYTHING
    bounds = Range(bounds.low, bounds.high, axis)
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return bounds
    count = element_count([static_size(source, a) for a in reduced])
    if node.op_type == "ReduceMean":
        return mean(bounds, count, node)
    bounds = mean(bounds, count, node)
    times = math.inf if count is None else float(count)
    with np.errstate(invalid="ignore"):
        low, high = (
            np.nan_to_num(bound * times, nan=0.0, posinf=np.inf, neginf=-np.inf)
            for bound in (bounds.low, bounds.high)
        )
    return Range(low, high, axis)


def reorder_reduce(node: ir.Node, at: AxisOrder, _: Indices) -> list[AxisOrder] | None:
    """An axis that is not reduced, where it is the same one before and after."""
    axis, order, source, result = *at[1:], node.inputs[0], node.outputs[0]
    reduced = reduced_axes(node)
    if source is None or reduced is None or axis in reduced:
        return None
    if not node.attributes.get_int("keepdims", True) and min(reduced, default=axis) < axis:
        return None
    return [(source, axis, order), (result, axis, order)]


def reduce_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Known where the input is, if batch and channels are not reduced."""
    axes = reduced_axes(node)
    return held_beside_constants(node, facts) if axes and min(axes) > 1 else None


_SUM = Operator(
    "ReduceSum",
    couple=couple_reduce,
    constants=reduce_constants,
    ranges=reduce_range,
    reorder=reorder_reduce,
    reads=needed,
)
_EXTREME = replace(_SUM, name="ReduceMax", maps=reduce_maps, selects_elements=True)

OPERATORS = (
    replace(_SUM, name="ReduceL1"),
    replace(_SUM, name="ReduceL2"),
    Operator("ReduceLogSum", couple=couple_reduce, reads=needed),  # of a constant: varies
    Operator("ReduceLogSumExp", couple=couple_reduce, reads=needed),
    _EXTREME,
    replace(_SUM, name="ReduceMean", maps=reduce_maps, edit=edit_reduce),
    replace(_EXTREME, name="ReduceMin"),
    Operator("ReduceProd", couple=couple_reduce, reads=needed),
    _SUM,
    replace(_SUM, name="ReduceSumSquare"),
)
