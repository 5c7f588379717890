"""Operators that treat every channel by itself: norms by channel, and Dropout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.analysis.feature_maps import held_beside_constants
from prunedeploy.passes.analysis.ranges import ANYTHING, Range, Ranges, unit
from prunedeploy.passes.analysis.value_numbers import ValueNumbers, signature
from prunedeploy.passes.analysis.zero import SUBNORMAL, UNIT
from prunedeploy.passes.operators import intervals
from prunedeploy.passes.operators.operator import AxisOrder, Indices, Operator, opaque, read_besides
from prunedeploy.reference.opsets import drops, scales_channels

EPSILON = float(np.float32(1e-5))  # of a BatchNormalization that names none, as ONNX stores it
NOISE = 2.0**-13  # of what is normalised to one: how far rounding may be off where it is left out


def couple_first(node: ir.Node, axes: Axes) -> None:
    """Result and first input share all axes; vectors among the other inputs follow the channels.

    BatchNormalization, InstanceNormalization's channel axis, Dropout. A BatchNormalization with
    parameters for every element, which opset 9 took away, is let alone.
    """
    source, result = node.inputs[0], node.outputs[0]
    vague = any(value is not None and rank(value) is None for value in node.inputs)
    vague |= not node.attributes.get_int("spatial", 1)
    if source is None or vague or rank(result) != rank(source) or read_besides(node):
        opaque(node, axes)
        return
    axes.share(source, result)
    for vector in node.inputs[1:]:
        if vector is not None and rank(vector) == 1:
            axes.assign(vector, 0, axes.of(source, 1))


def couple_instance_norm(node: ir.Node, axes: Axes) -> None:
    """Channels pass; the axes that statistics are taken over cannot be cut."""
    source = node.inputs[0]
    if source is not None:
        for axis in range(2, rank(source) or 0):
            axes.pin_axis(source, axis)
    couple_first(node, axes)


def batch_norm_constants(node: ir.Node, facts: Facts) -> None:
    """y = a (x - mean) + bias, a = scale / sqrt(var + epsilon): constant where x or bias alone is.

    A channel whose ``a`` counts as zero holds its bias whatever comes in (network slimming).
    """
    source = node.inputs[0]
    if not scales_channels(node):
        return
    vectors = [constant_array(value) for value in node.inputs[1:5]]
    if source is None or len(vectors) < 4 or any(vector is None for vector in vectors):
        return
    scale, bias, mean, var = (np.asarray(vector, np.float64) for vector in vectors)
    slope = scale / np.sqrt(var + node.attributes.get_float("epsilon", EPSILON))
    known = facts.of(source, 1)
    known = np.full(len(slope), np.nan) if known is None else known
    bound = max(facts.zero.threshold, SUBNORMAL, UNIT * UNIT * np.abs(slope).max(initial=0.0))
    flat = np.abs(slope) <= bound
    facts.learn(node.outputs[0], 1, np.where(flat, bias, slope * (known - mean) + bias))


def instance_norm_constants(node: ir.Node, facts: Facts) -> None:
    """A channel that is constant over its map becomes its bias, as one whose scale is zero does.

    But for constants that ``_steady`` refuses.
    """
    source = node.inputs[0]
    known = facts.of(source, 1) if source is not None else None
    scale, bias = constant_array(node.inputs[1]), constant_array(node.inputs[2])
    if bias is not None:
        flat = np.zeros(bias.shape, bool) if scale is None else scale == 0
        if known is not None:
            flat |= _steady(node, np.abs(known), np.zeros(len(known)))
        facts.learn(node.outputs[0], 1, np.where(flat, bias.astype(np.float64), np.nan))


def instance_norm_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """A known map of a channel gives one; of constants ``instance_norm_constants`` decides."""
    held, source = held_beside_constants(node, facts), node.inputs[0]
    maps = facts.maps(source) if source is not None else None
    if held is None or maps is None:
        return None
    flat = maps.reshape(len(maps), -1)
    return held & _steady(node, np.abs(flat).max(axis=1), flat.var(axis=1))


def _steady(node: ir.Node, sizes: Constants, variances: Constants) -> Mask:
    """Which channels, by largest magnitude and variance, are normalised without much rounding.

    Their mean is off by a few units in the last place, which the division by the root of variance
    and epsilon makes larger. False for NaN.
    """
    epsilon = max(node.attributes.get_float("epsilon", EPSILON), 0.0)
    noise = 4 * unit(node.outputs[0]) * sizes
    return np.asarray((sizes == 0) | (noise <= NOISE * np.sqrt(variances + epsilon)))


def first_constants(node: ir.Node, facts: Facts) -> None:
    """The result is the first input (Dropout at inference)."""
    source = node.inputs[0]
    if source is not None and not drops(node):
        for axis in facts.axes(source):
            facts.learn(node.outputs[0], axis, facts.of(source, axis))


def batch_norm_range(node: ir.Node, ranges: Ranges) -> Range:
    """y = a (x - mean) + bias, computed in either order of its operations."""
    vectors = [constant_array(value) for value in node.inputs[1:5]]
    if not scales_channels(node) or len(vectors) < 4 or any(vector is None for vector in vectors):
        return ANYTHING
    scale, bias, mean, var = (np.asarray(vector, np.float64) for vector in vectors)
    slope = scale / np.sqrt(var + node.attributes.get_float("epsilon", EPSILON))
    bound = max(SUBNORMAL, UNIT * UNIT * np.abs(slope).max(initial=0.0))
    slope = np.where(np.abs(slope) <= bound, 0.0, slope)
    low, high = intervals.product(ranges.along(node.inputs[0], 1, len(slope)), (slope, slope))
    shift = bias - slope * mean
    error = 8 * unit(node.outputs[0])
    still = slope == 0
    scales = np.where(still, 0.0, np.abs(slope * mean) + np.abs(bias))
    with np.errstate(invalid="ignore"):
        below = low + shift - error * (np.abs(low) + scales)
        above = high + shift + error * (np.abs(high) + scales)
    return Range(np.where(still, bias, below), np.where(still, bias, above), 1)


def number_normalising(node: ir.Node, known: ValueNumbers) -> None:
    """One channel each, with its own numbers."""
    source, result = node.inputs[0], node.outputs[0]
    vectors = [value for value in node.inputs[1:] if value is not None]
    if source is None or read_besides(node):
        return
    if node.op_type == "BatchNormalization" and not scales_channels(node):
        return
    if any(rank(vector) != 1 for vector in vectors) or not known.followed(result, 1):
        return
    columns = [known.of(source, 1).tolist(), *(known.of(v, 0).tolist() for v in vectors)]
    if len({len(column) for column in columns}) == 1:
        where = known.one((signature(node), rank(source)))
        known.learn(result, 1, [(where, *key) for key in zip(*columns, strict=True)])


def number_channels(node: ir.Node, known: ValueNumbers) -> None:
    """Pools and resizing, which treat every channel alike."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or rank(source) != rank(result):
        return
    axis = 1
    same = static_size(source, axis) == static_size(result, axis)
    if read_besides(node) or not same or not known.followed(result, axis):
        return
    where = known.one((signature(node), rank(source), *map(known.whole, node.inputs[1:])))
    known.learn(result, axis, [(where, key) for key in known.of(source, axis).tolist()])


def reorder_channels(node: ir.Node, at: AxisOrder, _: Indices) -> list[AxisOrder] | None:
    """Channels of result and first input, and the vectors that hold one number for each."""
    axis, order, source, result = *at[1:], node.inputs[0], node.outputs[0]
    if source is None or axis != 1 or read_besides(node):
        return None
    vectors = [value for value in node.inputs[1:] if value is not None and rank(value) == 1]
    if node.op_type in ("BatchNormalization", "InstanceNormalization"):
        return [(source, 1, order), (result, 1, order), *((v, 0, order) for v in vectors)]
    return [(source, 1, order), (result, 1, order)]


def batch_norm_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """A constant map of a channel stays one."""
    return held_beside_constants(node, facts) if scales_channels(node) else None


OPERATORS = (
    Operator(
        "BatchNormalization",
        couple=couple_first,
        constants=batch_norm_constants,
        maps=batch_norm_maps,
        ranges=batch_norm_range,
        number=number_normalising,
        reorder=reorder_channels,
    ),
    Operator(
        "Dropout",
        couple=couple_first,
        constants=first_constants,
        moves_elements=True,
        reorder=reorder_channels,
    ),
    Operator(
        "InstanceNormalization",
        couple=couple_instance_norm,
        constants=instance_norm_constants,
        maps=instance_norm_maps,
        number=number_normalising,
        reorder=reorder_channels,
    ),
)
