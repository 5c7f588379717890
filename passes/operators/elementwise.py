"""Rules for operators that leave every index of every axis where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.analysis.feature_maps import held_channels, map_sizes
from prunedeploy.passes.analysis.ranges import Range, Ranges
from prunedeploy.passes.analysis.value_numbers import ValueNumbers, signature
from prunedeploy.passes.operators import intervals
from prunedeploy.passes.operators.intervals import APPROXIMATION, between, monotone, pointwise
from prunedeploy.passes.operators.operator import AxisOrder, Indices, Operator, opaque
from prunedeploy.reference.evaluate import evaluate_node


def couple_elementwise(node: ir.Node, axes: Axes) -> None:
    """Aligned axes of all operands and the result are cut together; see ONNX broadcasting."""
    result = node.outputs[0]
    inputs = [value for value in node.inputs if value is not None]
    width = rank(result)
    if width is None or any(rank(value) is None for value in inputs):
        opaque(node, axes)
        return
    for axis in range(width):
        size = static_size(result, axis)
        aligned = [(value, axis - width + (rank(value) or 0)) for value in inputs]
        aligned = [(value, position) for value, position in aligned if position >= 0]
        if any(static_size(*pair) is None for pair in aligned):
            for value, position in [*aligned, (result, axis)]:
                axes.pin_axis(value, position, "an axis of unknown length")
            continue
        whole = [pair for pair in aligned if static_size(*pair) == size]
        for value, position in aligned:
            if (value, position) not in whole:
                axes.pin_axis(value, position)  # repeated along the axis, or of dynamic length
        if not whole:
            axes.pin_axis(result, axis)
            continue
        known = [pair for pair in whole if axes.has(*pair)] or whole[:1]
        labels = axes.of(*known[0])
        for value, position in whole:
            axes.assign(value, position, labels)
        axes.assign(result, axis, labels)


def _along_axes(
    values: list[ir.Value], result: ir.Value, facts: Facts
) -> Iterator[tuple[int, int, list[Constants | None]]]:
    """Each axis of the result of known length, that length, and the operands' constants there.

    Nothing where a rank is not known.
    """
    width = rank(result)
    if width is None or any(rank(value) is None for value in values):
        return
    for axis in range(width):
        size = static_size(result, axis)
        if size is not None:
            aligned = (facts.aligned(v, axis - width + (rank(v) or 0), size) for v in values)
            yield axis, size, list(aligned)


def elementwise_constants(node: ir.Node, facts: Facts) -> None:
    """The operator itself, run on the constants.

    Zero times anything is zero, whatever the other operand holds, and so is zero divided by
    anything known not to be zero, or by what all indices of the axis share (the root of a mean
    over them): the network is taken to compute finite numbers, as everywhere here.
    """
    result = node.outputs[0]
    inputs = [value for value in node.inputs if value is not None]
    if result.dtype is None or not result.dtype.is_floating_point():
        return  # integers jump too
    for axis, size, aligned in _along_axes(inputs, result, facts):
        known = [np.full(size, np.nan) if f is None else f for f in aligned]
        zero = _annihilated(node, inputs, known, axis - (rank(result) or 0))
        if all(f is not None for f in aligned):
            constants = _run(node, known)
            facts.learn(result, axis, np.where(zero, 0.0, constants))
        elif zero.any():
            facts.learn(result, axis, np.where(zero, 0.0, np.nan))


def _annihilated(node: ir.Node, inputs: list[ir.Value], known: list[Constants], axis: int) -> Mask:
    """Where one operand makes the result zero, whatever the other is; ``axis`` from the end."""
    if node.op_type == "Mul":
        values = np.array(known)
        return np.asarray((values == 0).any(axis=0) & ~np.isinf(values).any(axis=0))
    if node.op_type == "Div":
        divisor = constant_array(inputs[1])
        if divisor is not None and divisor.all():
            return np.asarray(known[0] == 0)
        # were it zero, no index of the axis would hold a finite number
        position = axis + (rank(inputs[1]) or 0)
        shared = position < 0 or static_size(inputs[1], position) == 1
        if divisor is None and shared and len(known[0]) > 1:
            return np.asarray(known[0] == 0)
    return np.zeros(len(known[0]), bool)


def _run(node: ir.Node, known: list[Constants]) -> Constants:
    """The operator on what is known of its operands, those left out left out."""
    graph, given = node.graph, iter(known)
    assert graph is not None
    operands = [None if value is None else _operand(value, next(given)) for value in node.inputs]
    outputs = evaluate_node(node, graph.opset_imports, operands)
    whole = np.broadcast_to(np.asarray(outputs[0], np.float64), known[0].shape)
    return np.where(np.isnan(np.array(known)).any(axis=0), np.nan, whole)


def _operand(value: ir.Value, known: Constants) -> Constants:
    """One number where the operand is one: some operators take no more."""
    single = len(known) > 0 and all(n == 1 for n in value.shape or ())
    return known[:1].reshape(()) if single else known


def where_constants(node: ir.Node, facts: Facts) -> None:
    """The result holds a constant that both branches hold, whatever the condition."""
    result, branches = node.outputs[0], [value for value in node.inputs[1:] if value is not None]
    for axis, size, aligned in _along_axes(branches, result, facts):
        left, right = (np.full(size, np.nan) if f is None else f for f in aligned)
        facts.learn(result, axis, np.where(left == right, left, np.nan))


def elementwise_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Where all operands are known; those that are computed must be as large as the result."""
    if not any(v is not None and facts.maps(v) is not None for v in node.inputs):
        return None  # constants alone make no maps
    sizes = map_sizes(node.outputs[0])
    known = np.ones(sizes[0] if sizes else 0, bool)
    for value in node.inputs:
        if value is None or constant_array(value) is not None:
            continue
        held = held_channels(value, facts)
        if held is None or map_sizes(value) != sizes or rank(value) != rank(node.outputs[0]):
            return None
        known &= held
    return known


def number_elementwise(node: ir.Node, known: ValueNumbers) -> None:
    """The same operator on slices of the same classes, and on operands repeated along the axis."""
    result = node.outputs[0]
    width = rank(result)
    inputs = [value for value in node.inputs if value is not None]
    if width is None or any(rank(value) is None for value in inputs):
        return
    if result.dtype is None or not result.dtype.is_floating_point():
        return  # what rounds differently in the last place may jump
    absent = tuple(value is None for value in node.inputs)
    for axis in range(width):
        if not known.followed(result, axis):
            continue
        size, columns, repeated = static_size(result, axis) or 0, [], []
        for position, value in enumerate(inputs):
            aligned_axis = axis - width + (rank(value) or 0)
            if aligned_axis >= 0 and static_size(value, aligned_axis) == size:
                columns.append(known.of(value, aligned_axis).tolist())
            else:
                repeated.append((position, known.whole(value)))
        if not columns:
            continue
        where = known.one((signature(node), axis, width, absent, tuple(repeated)))
        known.learn(result, axis, [(where, *key) for key in zip(*columns, strict=True)])


def reorder_elementwise(node: ir.Node, at: AxisOrder, _: Indices) -> list[AxisOrder] | None:
    """All operands that are as long, aligned as broadcasting does, and the result."""
    (value, axis, order), result = at, node.outputs[0]
    values = [operand for operand in (*node.inputs, result) if operand is not None]
    width = rank(result)
    if width is None or any(rank(operand) is None for operand in values):
        return None
    orders = []
    for operand in values:
        position = axis + (rank(operand) or 0) - (rank(value) or 0)
        size = static_size(operand, position) if position >= 0 else 1
        if size == len(order):
            orders.append((operand, position, order))
        elif size != 1 or operand is result:
            return None
    return orders


def _elementwise(
    name: str, ranges: Callable[[ir.Node, Ranges], Range] | None = None, selects: bool = False
) -> Operator:
    return Operator(
        name,
        couple=couple_elementwise,
        constants=elementwise_constants,
        maps=elementwise_maps,
        ranges=ranges,
        selects_elements=selects,
        number=number_elementwise,
        reorder=reorder_elementwise,
    )


def _jumping(
    name: str, ranges: Callable[[ir.Node, Ranges], Range] | None = None, selects: bool = False
) -> Operator:
    """A constant that a runtime rounds differently in its last place may fall on the other side.

    Such an operator is coupled, but what it makes of constants is not taken as known.
    """
    return Operator(
        name,
        couple=couple_elementwise,
        ranges=ranges,
        selects_elements=selects,
        reorder=reorder_elementwise,
    )


OPERATORS = (
    *map(_elementwise, ("Acos", "Acosh", "Asin", "Atanh", "CastLike", "Cosh", "Tan")),
    *map(
        _jumping,
        ("And", "BitShift", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
    ),
    *map(_jumping, ("LessOrEqual", "Mod", "Not", "Or", "Shrink", "ThresholdedRelu", "Xor")),
    _elementwise("Abs", pointwise(intervals.absolute, 0)),
    _elementwise("Add", intervals.add),
    _elementwise("Asinh", monotone()),
    _elementwise("Atan", monotone(-math.pi / 2, math.pi / 2)),
    _elementwise("Cast", pointwise(intervals.cast, 0)),
    _elementwise("Celu", monotone()),
    _elementwise("Clip", pointwise(intervals.clipped, 0), selects=True),
    _elementwise("Cos", between(-1.0, 1.0)),
    _elementwise("Div", pointwise(intervals.divide, 4)),
    _elementwise("Elu", monotone()),
    _elementwise("Erf", monotone(-1.0, 1.0)),
    _elementwise("Exp", monotone(0.0)),
    _elementwise("Gelu", pointwise(intervals.humped(-0.1701), APPROXIMATION)),
    _elementwise("HardSigmoid", pointwise(intervals.hard_sigmoid, 0)),
    _elementwise("HardSwish", pointwise(intervals.hard_swish, 4)),
    replace(_elementwise("Identity"), moves_elements=True),
    _elementwise("LeakyRelu", pointwise(intervals.leaky, 2)),
    _elementwise("Log", monotone()),
    _elementwise("Max", pointwise(intervals.extreme(np.maximum), 0), selects=True),
    _elementwise("Mean", intervals.add),
    _elementwise("Min", pointwise(intervals.extreme(np.minimum), 0), selects=True),
    _elementwise("Mish", pointwise(intervals.humped(-0.3089), APPROXIMATION)),
    _elementwise("Mul", pointwise(intervals.multiply, 2)),
    _elementwise("Neg", pointwise(intervals.negated, 0)),
    _elementwise("PRelu", pointwise(intervals.sloped, 2)),
    _elementwise("Pow", pointwise(intervals.raised, APPROXIMATION)),
    _elementwise("Reciprocal", pointwise(intervals.inverse, 4)),
    _elementwise("Relu", pointwise(intervals.rectified, 0), selects=True),
    _elementwise("Selu", monotone()),
    _elementwise("Sigmoid", monotone(0.0, 1.0)),
    _elementwise("Sin", between(-1.0, 1.0)),
    _elementwise("Sinh", monotone()),
    _elementwise("Softplus", monotone(0.0)),
    _elementwise("Softsign", monotone(-1.0, 1.0)),
    _elementwise("Sqrt", monotone(0.0)),
    _elementwise("Sub", intervals.add),
    _elementwise("Sum", intervals.add),
    _elementwise("Swish", pointwise(intervals.humped(-0.2785), APPROXIMATION)),
    _elementwise("Tanh", monotone(-1.0, 1.0)),
    _jumping("Ceil", pointwise(intervals.stepped(np.ceil), 0)),
    _jumping("Floor", pointwise(intervals.stepped(np.floor), 0)),
    _jumping("Round", pointwise(intervals.stepped(np.round), 0)),
    _jumping("Sign", between(-1.0, 1.0), selects=True),
    Operator(
        "Where",
        couple=couple_elementwise,
        constants=where_constants,
        ranges=pointwise(intervals.either, 0),
        selects_elements=True,
        number=number_elementwise,
    ),
)

# whose operands are aligned by broadcasting
ELEMENTWISE = frozenset(record.name for record in OPERATORS)
