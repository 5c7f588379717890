"""Interval arithmetic: the range of an operator's result from the ranges of its operands.

A *transfer* returns the range of the first result of a node; ``pointwise`` makes one from a
function of aligned bounds. Every result is widened by a bound on its rounding.
See ``analysis/ranges.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis import ranges as bounds
from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.ranges import Bounds, Pair, Range, Ranges, gamma, unit, widened
from prunedeploy.reference.evaluate import evaluate_node

Transfer = Callable[[ir.Node, Ranges], Range]
# Runtimes compute exp, erf and their like by approximations of a few units in the last place.
APPROXIMATION = 16

Combine = Callable[[ir.Node, list[Pair]], Pair]


def pointwise(combine: Combine, rounds: float) -> Transfer:
    """The transfer of an elementwise operator from what it makes of aligned bounds.

    ``rounds`` is how many units in the last place its result may be off.
    """

    def transfer(node: ir.Node, ranges: Ranges) -> Range:
        axis, pairs = aligned(node, ranges)
        with np.errstate(all="ignore"):
            low, high = combine(node, pairs)
            if rounds:
                low, high = widened(low, high, rounds * unit(node.outputs[0]))
        return Range(low, high, axis)

    return transfer


def aligned(node: ir.Node, ranges: Ranges) -> tuple[int | None, list[Pair]]:
    """The axis of the result that ranges are kept for, and every operand's bounds along it."""
    result = node.outputs[0]
    width = rank(result)
    operands = []
    for value in node.inputs:
        offset = None if value is None or width is None else width - (rank(value) or 0)
        operands.append((value, offset))
    axis = _common_axis(operands, result, ranges)
    if axis is None:
        hulls = [ranges.of(value).hull() for value, _ in operands]
        return None, [(np.array([low]), np.array([high])) for low, high in hulls]
    size = static_size(result, axis) or 0
    return axis, [ranges.along(value, axis - (offset or 0), size) for value, offset in operands]


def _common_axis(
    operands: list[tuple[ir.Value | None, int | None]], result: ir.Value, ranges: Ranges
) -> int | None:
    """Where the first operand with a range an index has it; else the one long axis of a constant"""
    for value, offset in operands:
        known = ranges.of(value)
        if known.axis is not None and offset is not None:
            axis = known.axis + offset
            if static_size(result, axis) == len(known.low):
                return axis
    for value, offset in operands:
        array = constant_array(value)
        long = [i for i, n in enumerate(array.shape) if n > 1] if array is not None else []
        if len(long) == 1 and offset is not None and array is not None:
            axis = long[0] + offset
            if static_size(result, axis) == array.shape[long[0]]:
                return axis
    return None


def all_add(_: ir.Node, pairs: list[Pair]) -> Pair:
    """The sum of all operands, before its rounding."""
    low, high = pairs[0]
    for left, right in pairs[1:]:
        low, high = low + left, high + right
    return low, high


def add(node: ir.Node, ranges: Ranges) -> Range:
    """Sums: each addition rounds by a unit of its terms (see ``layer_ranges._lower_bound``)."""
    axis, pairs = aligned(node, ranges)
    if node.op_type == "Sub":
        pairs[1] = (-pairs[1][1], -pairs[1][0])
    with np.errstate(all="ignore"):
        low, high = all_add(node, pairs)
        if len(pairs) > 1:
            error = 2 * len(pairs) * unit(node.outputs[0])
            low = low - error * sum(np.abs(pair[0]) for pair in pairs)
            high = high + error * sum(np.abs(pair[1]) for pair in pairs)
        if node.op_type == "Mean":
            low, high = widened(low / len(pairs), high / len(pairs), error_of(node))
    return Range(low, high, axis)


def error_of(node: ir.Node) -> float:
    """Two units in the last place of a result: its own rounding, and that of the analysis."""
    return 2 * unit(node.outputs[0])


def product(left: Pair, right: Pair) -> Pair:
    """Bounds of x y; zero times infinity is zero, as neither is reached."""
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.array([a * b for a in left for b in right])
    corners = np.where(np.isnan(corners), 0.0, corners)
    return corners.min(axis=0), corners.max(axis=0)


def multiply(node: ir.Node, pairs: list[Pair]) -> Pair:
    """x y; x x is a square."""
    if node.inputs[0] is node.inputs[1]:
        return power(pairs[0], 2.0)
    return product(*pairs)


def divide(_: ir.Node, pairs: list[Pair]) -> Pair:
    """x / y."""
    return product(pairs[0], reciprocal(pairs[1]))


def reciprocal(pair: Pair) -> Pair:
    """1 / x; anything where x may be zero."""
    low, high = pair
    apart = (low > 0) | (high < 0)
    return np.where(apart, 1 / high, -np.inf), np.where(apart, 1 / low, np.inf)


def power(base: Pair, exponent: float) -> Pair:
    """x to one known exponent."""
    low, high = base
    if exponent == int(exponent) and int(exponent) % 2 == 0:
        size = np.maximum(np.abs(low), np.abs(high))
        smallest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
        low, high = smallest, size
    elif exponent != int(exponent):
        low = np.maximum(low, 0.0)  # a number below zero has no such power
    ends = low**exponent, high**exponent
    if exponent < 0:
        # a bound of zero is approached, the side from which decides on the infinity: 1 / -0.0
        same_side = (low >= 0) | (high < 0)
        return (
            np.where(same_side, np.minimum(*ends), -np.inf),
            np.where(same_side & (low != 0) & (high != 0), np.maximum(*ends), np.inf),
        )
    return ends


def raised(_: ir.Node, pairs: list[Pair]) -> Pair:
    """Pow, where the exponent is one known number."""
    base, (low, high) = pairs
    exponents = np.unique(np.concatenate([low, high]))
    if len(exponents) != 1 or not np.isfinite(exponents[0]):
        return np.full_like(base[0], -np.inf), np.full_like(base[1], np.inf)
    return power(base, float(exponents[0]))


def clipped(node: ir.Node, pairs: list[Pair]) -> Pair:
    """Clip, its bounds operands or attributes."""
    (low, high), *limits = pairs
    if len(node.inputs) == 1:  # before opset 11
        lower = node.attributes.get_float("min", -np.inf)
        upper = node.attributes.get_float("max", np.inf)
        return np.clip(low, lower, upper), np.clip(high, lower, upper)
    given = [value is not None for value in node.inputs[1:]]
    if given[0]:
        low, high = np.maximum(low, limits[0][0]), np.maximum(high, limits[0][1])
    if given[1:] == [True]:
        low, high = np.minimum(low, limits[1][0]), np.minimum(high, limits[1][1])
    return low, high


def leaky(node: ir.Node, pairs: list[Pair]) -> Pair:
    """LeakyRelu: x, or alpha x below zero."""
    slope = np.array([node.attributes.get_float("alpha", 0.01)])
    return sloped(node, [pairs[0], (slope, slope)])


def sloped(_: ir.Node, pairs: list[Pair]) -> Pair:
    """PRelu: x, or slope x below zero."""
    (low, high), slope = pairs
    below = product((np.minimum(low, 0), np.minimum(high, 0)), slope)
    return np.maximum(low, 0) + below[0], np.maximum(high, 0) + below[1]


def absolute(_: ir.Node, pairs: list[Pair]) -> Pair:
    """|x|."""
    low, high = pairs[0]
    crosses = (low < 0) & (high > 0)
    smallest = np.where(crosses, 0.0, np.minimum(np.abs(low), np.abs(high)))
    return smallest, np.maximum(np.abs(low), np.abs(high))


def hard_sigmoid(node: ir.Node, pairs: list[Pair], slope: float = 0.2) -> Pair:
    """max(0, min(1, alpha x + beta)), what is inside widened before it is cut off.

    ``slope`` is alpha where the node names none.
    """
    alpha = node.attributes.get_float("alpha", slope)
    beta = node.attributes.get_float("beta", 0.5)
    factor = np.array([alpha])
    low, high = product(pairs[0], (factor, factor))
    low, high = widened(low + beta, high + beta, 4 * unit(node.outputs[0]), abs(beta) * 2)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def hard_swish(node: ir.Node, pairs: list[Pair]) -> Pair:
    """x times a HardSigmoid of slope 1/6; never below -3/8."""
    low, high = product(pairs[0], hard_sigmoid(node, pairs, 1 / 6))
    return np.maximum(low, -0.376), high


def humped(minimum: float) -> Combine:
    """x s(x) with s from 0 to 1: between x and 0 for x below 0, but never below ``minimum``."""

    def combine(node: ir.Node, pairs: list[Pair]) -> Pair:
        low, high = pairs[0]
        if node.attributes.get_float("alpha", 1.0) != 1.0:
            return np.minimum(low, 0), np.maximum(high, 0)
        return np.clip(low, minimum, 0), np.maximum(high, 0)

    return combine


def monotone(minimum: float = -math.inf, maximum: float = math.inf) -> Transfer:
    """A function that never falls, in [minimum, maximum]: the operator at both bounds."""

    def combine(node: ir.Node, pairs: list[Pair]) -> Pair:
        if node.attributes.get_float("alpha", 1.0) < 0 or node.attributes.get_float("gamma", 1) < 0:
            return np.full_like(pairs[0][0], -np.inf), np.full_like(pairs[0][1], np.inf)
        low, high = (_evaluated(node, bound) for bound in pairs[0])
        low, high = widened(low, high, APPROXIMATION * unit(node.outputs[0]), 1.0)
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        # where a function has a limit, its approximation may pass it by its rounding, but for 0
        slack = APPROXIMATION * unit(node.outputs[0])
        return np.maximum(low, minimum - slack * abs(minimum)), np.minimum(
            high, maximum + slack * abs(maximum) if math.isfinite(maximum) else maximum
        )

    return pointwise(combine, 0)


def _evaluated(node: ir.Node, at: Bounds) -> Bounds:
    assert node.graph is not None
    assert node.inputs[0] is not None
    results = evaluate_node(node, node.graph.opset_imports, [at])
    return np.array(results[0], np.float64)


def stepped(jump: Callable[[Bounds], Bounds]) -> Combine:
    """A bound that is itself on a jump may fall on either side of it, once passes have rounded."""

    def combine(node: ir.Node, pairs: list[Pair]) -> Pair:
        low, high = widened(*pairs[0], 64 * unit(node.outputs[0]))
        return jump(low), jump(high)

    return combine


def either(_: ir.Node, pairs: list[Pair]) -> Pair:
    """Where: what either branch holds."""
    (left_low, left_high), (right_low, right_high) = pairs[1:]
    return np.minimum(left_low, right_low), np.maximum(left_high, right_high)


def cast(node: ir.Node, pairs: list[Pair]) -> Pair:
    """Cast between floating-point types; any other may compute anything."""
    dtype = node.outputs[0].dtype
    if dtype is None or not dtype.is_floating_point():
        return np.full_like(pairs[0][0], -np.inf), np.full_like(pairs[0][1], np.inf)
    return widened(*pairs[0], 2 * unit(node.outputs[0]))


def between(low: float, high: float) -> Transfer:
    """Whatever comes in, the result lies in [low, high]."""

    def transfer(node: ir.Node, _: Ranges) -> Range:
        slack = APPROXIMATION * unit(node.outputs[0])
        upper = high + slack * abs(high) if math.isfinite(high) else high
        return bounds.everywhere(low - slack * abs(low) if math.isfinite(low) else low, upper)

    return transfer


def kept(node: ir.Node, ranges: Ranges, low: float = math.inf, high: float = -math.inf) -> Range:
    """The first input's range with [low, high] joined to it, where its axis keeps its place."""
    source, result = node.inputs[0], node.outputs[0]
    known = ranges.of(source)
    axis = known.axis
    if axis is not None and static_size(result, axis) == len(known.low):
        return Range(np.minimum(known.low, low), np.maximum(known.high, high), axis)
    hull = known.hull()
    return bounds.everywhere(min(hull[0], low), max(hull[1], high))


def mean(exact: Range, count: int | None, node: ir.Node) -> Range:
    """Rounded as a sum of ``count`` terms; of any number only the sign is certain."""
    error = 2 * gamma(count + 2, unit(node.outputs[0])) if count is not None else math.inf
    if error < 0.5:
        return Range(*widened(exact.low, exact.high, error), exact.axis)
    return Range(
        np.where(exact.low >= 0, 0.0, -np.inf), np.where(exact.high <= 0, 0.0, np.inf), exact.axis
    )


def element_count(sizes: list[int | None]) -> int | None:
    """The number of elements along axes of these lengths; None where one is not known."""
    return math.prod(size or 0 for size in sizes) if None not in sizes else None


def extreme(which: Callable[[Bounds, Bounds], Bounds]) -> Combine:
    """The largest or smallest of all operands."""

    def combine(_: ir.Node, pairs: list[Pair]) -> Pair:
        low, high = pairs[0]
        for left, right in pairs[1:]:
            low, high = which(low, left), which(high, right)
        return low, high

    return combine


def negated(_: ir.Node, pairs: list[Pair]) -> Pair:
    """-x."""
    return -pairs[0][1], -pairs[0][0]


def rectified(_: ir.Node, pairs: list[Pair]) -> Pair:
    """max(x, 0)."""
    return np.maximum(pairs[0][0], 0.0), np.maximum(pairs[0][1], 0.0)


def inverse(_: ir.Node, pairs: list[Pair]) -> Pair:
    """1 / x."""
    return reciprocal(pairs[0])
