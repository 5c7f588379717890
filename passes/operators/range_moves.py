"""Ranges through operators that move, join, pool or sum what is along the axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.analysis.ranges import (
    ANYTHING,
    Range,
    Ranges,
    everywhere,
    gamma,
    unit,
    widened,
)
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.joins import padded_with, pads
from prunedeploy.passes.operators.layers import Layer, Weights
from prunedeploy.passes.operators.range_layers import layer_range
from prunedeploy.passes.operators.range_rules import POINTWISE, Transfer
from prunedeploy.passes.operators.reductions import reduced_axes
from prunedeploy.passes.operators.resizing import unscaled
from prunedeploy.passes.operators.table import rule

# Every element of their results is an element of an input that is data. Where their rows of the
# table carry constants, they carry bounds as well: a slice that holds elements of one slice alone
# has its constant, and likewise its bounds.
MOVING = (
    *("Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherND", "Identity"),
    *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)

# Every element of their results is an element of an input, a bound or a padding, or a sign: the
# only ones that are followed through integers.
SELECTING = (
    *("Clip", "GlobalMaxPool", "Max", "MaxPool", "Min", "Pad", "ReduceMax", "ReduceMin", "Relu"),
    *("Sign", "Where"),
)


class _Side(Facts):
    """Lower or upper bounds in the place of constants, for the rules that only move them."""

    def __init__(self, ranges: Ranges, upper: bool) -> None:
        super().__init__(Zero())
        self._ranges, self._upper = ranges, upper
        self.found: dict[tuple[ir.Value, int], Constants] = {}

    def of(self, value: ir.Value, axis: int) -> Constants | None:
        """The bounds along an axis, where there are any."""
        size = static_size(value, axis)
        if size is None:
            return None
        bounds = self._ranges.along(value, axis, size)[self._upper]
        return bounds if np.isfinite(bounds).any() else None

    def learn(self, value: ir.Value, axis: int, constants: Constants | None) -> None:
        """Keep what a rule found, as it is."""
        if constants is not None:
            self.found[value, axis] = constants


def move(node: ir.Node, ranges: Ranges) -> None:
    """The rule's own way of carrying constants, once for each side; else the hull of all data."""
    count = len(node.inputs) if node.op_type == "Concat" else 1
    hulls = [ranges.of(value).hull() for value in node.inputs[:count]]
    hull = min(low for low, _ in hulls), max(high for _, high in hulls)
    row = rule(node)
    sides = _Side(ranges, False), _Side(ranges, True)
    if row is not None and row.constants is not None:
        for side in sides:
            row.constants(node, side)
    for value in node.outputs:
        ranges.learn(value, _best(value, sides, hull))


def _best(value: ir.Value, sides: tuple[_Side, _Side], hull: tuple[float, float]) -> Range:
    """Along the axis that tells most: where bounds differ from index to index."""
    for axis in (1, *range(rank(value) or 0)):
        size, found = static_size(value, axis), [side.found.get((value, axis)) for side in sides]
        if size is None or all(f is None for f in found):
            continue
        bounds = [
            np.full(size, end) if f is None else np.where(np.isnan(f), end, f)
            for f, end in zip(found, hull, strict=True)
        ]
        low, high = np.maximum(bounds[0], hull[0]), np.minimum(bounds[1], hull[1])
        if size > 1 and ((low != low[0]).any() or (high != high[0]).any()):
            return Range(low, high, axis)
    return everywhere(*hull)


def kept(node: ir.Node, ranges: Ranges, low: float = math.inf, high: float = -math.inf) -> Range:
    """The first input's range with [low, high] joined to it, where its axis keeps its place."""
    source, result = node.inputs[0], node.outputs[0]
    found = ranges.of(source)
    axis = found.axis
    if axis is not None and static_size(result, axis) == len(found.low):
        return Range(np.minimum(found.low, low), np.maximum(found.high, high), axis)
    hull = found.hull()
    return everywhere(min(hull[0], low), max(hull[1], high))


def max_pool(node: ir.Node, ranges: Ranges) -> Range:
    """Of what is in the window; one that could lie outside the image altogether holds anything."""
    strides = node.attributes.get_ints("strides", [1])
    kernel = node.attributes.get_ints("kernel_shape", [1] * len(strides))
    leaves_gaps = any(s > k for s, k in zip(strides, kernel, strict=False))
    outside = any(node.attributes.get_ints("pads", [0])) or leaves_gaps
    if node.attributes.get_int("ceil_mode", False) and outside:
        return kept(node, ranges, low=-math.inf)
    return kept(node, ranges)


def average_pool(node: ir.Node, ranges: Ranges) -> Range:
    """A mean of the window, the zeros of the padding included where they are counted."""
    count = math.prod(node.attributes.get_ints("kernel_shape", [])) or 1
    padded = any(node.attributes.get_ints("pads", [0])) or node.attributes.get_string(
        "auto_pad", "NOTSET"
    ).startswith("SAME")
    ceil = node.attributes.get_int("ceil_mode", False)
    zeros = (padded and node.attributes.get_int("count_include_pad", False)) or ceil
    found = kept(node, ranges, 0.0, 0.0) if zeros else kept(node, ranges)
    return mean(found, count, node)


def global_average_pool(node: ir.Node, ranges: Ranges) -> Range:
    """A mean over all positions."""
    source = node.inputs[0]
    sizes = [static_size(source, axis) for axis in range(2, rank(source) or 0)] if source else []
    return mean(kept(node, ranges), _count(sizes), node)


def _count(sizes: list[int | None]) -> int | None:
    return math.prod(size or 0 for size in sizes) if None not in sizes else None


def mean(found: Range, count: int | None, node: ir.Node) -> Range:
    """Rounded as a sum of ``count`` terms; of any number only the sign is certain."""
    error = 2 * gamma(count + 2, unit(node.outputs[0])) if count is not None else math.inf
    if error < 0.5:
        return Range(*widened(found.low, found.high, error), found.axis)
    return Range(
        np.where(found.low >= 0, 0.0, -np.inf), np.where(found.high <= 0, 0.0, np.inf), found.axis
    )


def reduce(node: ir.Node, ranges: Ranges) -> Range:
    """Extremes, means and sums over some axes; of norms no more than that they are not negative."""
    source, result, reduced = node.inputs[0], node.outputs[0], reduced_axes(node)
    if node.op_type in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
        return everywhere(0.0, math.inf)
    if source is None or reduced is None:
        return ANYTHING
    found = ranges.of(source)
    axis = found.axis
    if axis in reduced or axis is None:
        found, axis = everywhere(*found.hull()), None
    elif not node.attributes.get_int("keepdims", True):
        axis -= sum(before < axis for before in reduced)
    if axis is not None and static_size(result, axis) != len(found.low):
        return ANYTHING
    found = Range(found.low, found.high, axis)
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return found
    count = _count([static_size(source, a) for a in reduced])
    if node.op_type == "ReduceMean":
        return mean(found, count, node)
    found = mean(found, count, node)
    times = math.inf if count is None else float(count)
    with np.errstate(invalid="ignore"):
        low, high = (
            np.nan_to_num(found.low * times, nan=0.0, posinf=np.inf, neginf=-np.inf),
            (np.nan_to_num(found.high * times, nan=0.0, posinf=np.inf, neginf=-np.inf)),
        )
    return Range(low, high, axis)


def pad(node: ir.Node, ranges: Ranges) -> Range:
    """Padded positions hold the padding's number; channels that are added hold nothing else."""
    source, result, full, number = node.inputs[0], node.outputs[0], pads(node), padded_with(node)
    mode = node.attributes.get_string("mode", "constant")
    if source is None or full is None or (mode == "constant" and number is None):
        return ANYTHING
    width, axis = rank(source) or 0, ranges.of(source).axis
    number = number if max(full) > 0 else None  # nothing but crops
    moved = axis is not None and (full[axis] != 0 or full[axis + width] != 0)
    if moved and (number is None or min(full) < 0):  # other indices, maybe as many as before
        ends = (*ranges.of(source).hull(), *([] if number is None else [number]))
        return everywhere(min(ends), max(ends))
    if not moved or axis is None or number is None:
        return kept(node, ranges) if number is None else kept(node, ranges, number, number)
    low, high = ranges.along(source, axis, static_size(source, axis) or 0)
    if any(p for i, p in enumerate(full) if i % width != axis):
        low, high = np.minimum(low, number), np.maximum(high, number)
    outer = np.full(full[axis], number), np.full(full[axis + width], number)
    sides = [np.concatenate([outer[0], bounds, outer[1]]) for bounds in (low, high)]
    if static_size(result, axis) != len(sides[0]):
        return ANYTHING
    return Range(sides[0], sides[1], axis)


def resize(node: ir.Node, ranges: Ranges) -> Range:
    """Weights of interpolation are positive and add up to one, but for cubic ones and crops."""
    mode = node.attributes.get_string("mode", "nearest")
    crops = node.attributes.get_string("coordinate_transformation_mode", "").startswith("tf_crop")
    if mode not in ("nearest", "linear") or crops:
        return ANYTHING
    axis = ranges.of(node.inputs[0]).axis
    if axis is None or unscaled(node, axis):
        found = kept(node, ranges)
    else:
        found = everywhere(*ranges.of(node.inputs[0]).hull())
    error = 64 * unit(node.outputs[0]) if mode == "linear" else 0.0
    size = np.maximum(np.abs(found.low), np.abs(found.high))
    size = np.where(np.isfinite(size), size, 0.0)
    return Range(*widened(found.low, found.high, error, size), found.axis) if error else found


WHOLE: dict[str, Callable[[ir.Node, Ranges], Range]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": kept,
    "MaxPool": max_pool,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), reduce),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), reduce),
}
TRANSFERS: dict[str, Transfer] = {**POINTWISE, **WHOLE}


def bound(node: ir.Node, found: Layer | None, weights: Weights, ranges: Ranges) -> None:
    """Record the ranges of a node's results."""
    if found is not None:
        ranges.learn(found.result, layer_range(found, weights, ranges))
        return
    if node.domain not in ("", "ai.onnx") or not node.outputs:
        return
    if node.op_type in MOVING:
        move(node, ranges)
    elif (transfer := TRANSFERS.get(node.op_type)) is not None and _known_arithmetic(node):
        ranges.learn(node.outputs[0], transfer(node, ranges))


def _known_arithmetic(node: ir.Node) -> bool:
    """Whether real numbers bound what is computed: integers wrap around, and quotients truncate."""
    dtype = node.outputs[0].dtype
    return dtype is None or dtype.is_floating_point() or node.op_type in SELECTING
