"""Rules for operators that leave every index of every axis where it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.analysis.zero import SUBNORMAL, UNIT
from prunedeploy.passes.operators.rule import wall
from prunedeploy.reference.evaluate import evaluate_node
from prunedeploy.reference.opsets import drops, scales_channels, softmax_axes

ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike"),
    *("Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg"),
    *("PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh"),
)
# A constant that a runtime rounds differently in its last place may fall on the other side of a
# jump: these are coupled, but what they make of constants is not taken as known.
JUMPING = (
    *("And", "BitShift", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"),
    *("Less", "LessOrEqual", "Mod", "Not", "Or", "Round", "Shrink", "Sign", "ThresholdedRelu"),
    "Xor",
)


EPSILON = float(np.float32(1e-5))  # of a BatchNormalization that names none, as ONNX stores it


def couple_elementwise(node: ir.Node, axes: Axes) -> None:
    """Aligned axes of all operands and the result are cut together; see ONNX broadcasting."""
    result = node.outputs[0]
    inputs = [value for value in node.inputs if value is not None]
    width = rank(result)
    if width is None or any(rank(value) is None for value in inputs):
        wall(node, axes)
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


def elementwise_constants(node: ir.Node, facts: Facts) -> None:
    """The operator itself, run on the constants.

    Zero times anything is zero, whatever the other operand holds, and so is zero divided by
    anything known not to be zero, or by what all indices of the axis share (the root of a mean
    over them): the network is taken to compute finite numbers, as everywhere here.
    """
    result = node.outputs[0]
    width = rank(result)
    inputs = [value for value in node.inputs if value is not None]
    if width is None or any(rank(value) is None for value in inputs):
        return
    if result.dtype is None or not result.dtype.is_floating_point():
        return  # integers jump too
    for axis in range(width):
        size = static_size(result, axis)
        if size is None:
            continue
        found = [facts.aligned(v, axis - width + (rank(v) or 0), size) for v in inputs]
        known = [np.full(size, np.nan) if f is None else f for f in found]
        zero = _annihilated(node, inputs, known, axis - width)
        if all(f is not None for f in found):
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
    """What both branches hold, whatever the condition says."""
    result, (_, *branches) = node.outputs[0], node.inputs
    width = rank(result)
    if width is None or any(v is None or rank(v) is None for v in branches):
        return
    for axis in range(width):
        size = static_size(result, axis)
        if size is None:
            continue
        values = [v for v in branches if v is not None]
        found = [facts.aligned(v, axis - width + (rank(v) or 0), size) for v in values]
        left, right = (np.full(size, np.nan) if f is None else f for f in found)
        facts.learn(result, axis, np.where(left == right, left, np.nan))


def couple_first(node: ir.Node, axes: Axes) -> None:
    """Result and first input share all axes; vectors among the other inputs follow the channels.

    BatchNormalization, InstanceNormalization's channel axis, Dropout. A BatchNormalization with
    parameters for every element, which opset 9 took away, is let alone.
    """
    source, result = node.inputs[0], node.outputs[0]
    vague = any(value is not None and rank(value) is None for value in node.inputs)
    vague |= not node.attributes.get_int("spatial", 1)
    if source is None or vague or rank(result) != rank(source) or read_besides(node):
        wall(node, axes)
        return
    for axis in range(rank(source) or 0):
        axes.assign(result, axis, axes.of(source, axis))
    for vector in node.inputs[1:]:
        if vector is not None and rank(vector) == 1:
            axes.assign(vector, 0, axes.of(source, 1))


def read_besides(node: ir.Node) -> bool:
    """Whether anybody reads the results after the first: masks, indices, statistics."""
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


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
    """A channel of zeros becomes its bias, and so does every channel whose scale is zero.

    A constant other than zero is left alone: in float32 its mean is off by rounding, which the
    division by sqrt(epsilon) makes 300 times larger.
    """
    source = node.inputs[0]
    known = facts.of(source, 1) if source is not None else None
    scale, bias = constant_array(node.inputs[1]), constant_array(node.inputs[2])
    if bias is not None:
        flat = np.zeros(bias.shape, bool) if scale is None else scale == 0
        if known is not None:
            flat |= known == 0
        facts.learn(node.outputs[0], 1, np.where(flat, bias.astype(np.float64), np.nan))


def first_constants(node: ir.Node, facts: Facts) -> None:
    """The result is the first input (Dropout at inference)."""
    source = node.inputs[0]
    if source is not None and not drops(node):
        for axis in facts.axes(source):
            facts.learn(node.outputs[0], axis, facts.of(source, axis))


def couple_softmax(node: ir.Node, axes: Axes) -> None:
    """The axes that are normalised cannot be cut; the others pass."""
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None or rank(result) != width or read_besides(node):
        wall(node, axes)
        return
    mixed = softmax_axes(node, width) if width else ()
    for position in range(width):
        if position in mixed:
            axes.pin_axis(source, position, f"{node.op_type} ({node.name})")
            axes.pin_axis(result, position)
        else:
            axes.assign(result, position, axes.of(source, position))
