"""Layer normalisation written out, as files older than the operator have it, fused into it.

    d = x - mean(x),    y = d / sqrt(mean(d^2) + epsilon) * scale + bias

Scale and bias may be missing. As one LayerNormalization runtimes run it faster, and channels can
be cut from it (``operators/norms.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import graph_of, replace_input, replace_value
from prunedeploy.passes.operators.reductions import reduced_axes
from prunedeploy.reference.opsets import opset

OPSET = 17  # the first with LayerNormalization


@dataclass(frozen=True)
class FuseLayerNorm:
    """Replace the pattern by LayerNormalization where the opset has it.

    Left as they are: half precision, which the operator computes in float32; an epsilon that
    float32, in which the operator holds it, would round, or of more axes than what is normalised;
    axes that are not the last ones, or of unknown length; a pattern whose middle somebody else
    reads.
    """

    name: ClassVar[str] = "fuse-layernorm"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        if opset(model) < OPSET:
            return PassResult(False, ())
        shapes.infer_shapes(model)
        notes = []
        for node in list(model.graph):
            pattern = _match(node) if node.op_type == "Sqrt" else None
            if pattern is not None:
                _fuse(pattern)
                notes.append(
                    Note("layernorm-fused", node.name or "?", "taken", "one LayerNormalization", 1)
                )
        if notes:
            models.drop_unused(model.graph)
            shapes.infer_shapes(model)
        return PassResult(bool(notes), tuple(notes))


@dataclass(frozen=True)
class Pattern:
    """``source`` normalised from ``axis`` on; ``nodes`` go, ``result`` is the last one's."""

    source: ir.Value
    axis: int
    epsilon: float
    scale: ir.Value | None
    bias: ir.Value | None
    result: ir.Value
    nodes: list[ir.Node]


def _match(root: ir.Node) -> Pattern | None:
    """The pattern around its square root."""
    added = _producer(root.inputs[0], "Add")
    epsilon, square_mean = _operands(added)
    variance = _producer(square_mean, "ReduceMean")
    power = variance.inputs[0].producer() if variance is not None and variance.inputs[0] else None
    deviations = _squared(power)
    if added is None or epsilon is None or variance is None or power is None or deviations is None:
        return None
    ends = _normalised(root, deviations)
    centre = _centre(deviations)
    if ends is None or centre is None:
        return None
    source, means = centre
    axis = _axis([*means, variance], source)
    number = float(np.asarray(constant_array(epsilon)).reshape(-1)[0])
    if axis is None or source.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    if not number > 0 or float(np.float32(number)) != number:
        return None
    if (rank(epsilon) or 0) > (rank(source) or 0):
        return None  # it would give the result more axes
    subtractions = [node for value in deviations if (node := value.producer()) is not None]
    nodes = [*means, *subtractions, power, variance, added, root, *ends[1:]]
    scale, bias, nodes = _affine(nodes, source, axis)
    pattern = Pattern(source, axis, number, scale, bias, nodes[-1].outputs[0], nodes)
    return pattern if _closed(pattern) else None


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator and not node.domain else None


def _operands(node: ir.Node | None) -> tuple[ir.Value | None, ir.Value | None]:
    """The one number of a binary node, and its other operand; None, None where there is none."""
    for index, value in enumerate(node.inputs if node is not None else ()):
        array = constant_array(value)
        if node is not None and array is not None and array.size == 1:
            return value, node.inputs[1 - index]
    return None, None


def _squared(power: ir.Node | None) -> list[ir.Value] | None:
    """Return the squared value, or both operands of a product, which have to be equal."""
    if power is None or power.domain or None in power.inputs:
        return None
    values = [value for value in power.inputs if value is not None]
    if power.op_type == "Mul":
        return list(dict.fromkeys(values))
    exponent = constant_array(values[1]) if power.op_type == "Pow" else None
    two = exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0
    return values[:1] if two else None


def _centre(deviations: list[ir.Value]) -> tuple[ir.Value, list[ir.Node]] | None:
    """x and the means of it, where every one of ``deviations`` is x - mean(x)."""
    sources: dict[ir.Value, None] = {}
    means = []
    for value in deviations:
        subtraction = _producer(value, "Sub")
        mean = _producer(subtraction.inputs[1], "ReduceMean") if subtraction is not None else None
        if subtraction is None or mean is None or subtraction.inputs[0] is not mean.inputs[0]:
            return None
        source = subtraction.inputs[0]
        if source is None:
            return None
        sources[source] = None
        means.append(mean)
    return (next(iter(sources)), list(dict.fromkeys(means))) if len(sources) == 1 else None


def _normalised(root: ir.Node, deviations: list[ir.Value]) -> list[ir.Node] | None:
    """From the root on: the division of d, which joins ``deviations``, or a product by 1 / root."""
    reader = _only_reader(root)
    if reader is None or reader.domain:
        return None
    nodes = [root, reader]
    if reader.op_type == "Reciprocal":
        last = _only_reader(reader)
        if last is None or last.op_type != "Mul" or last.domain:
            return None
        other = last.inputs[1] if last.inputs[0] is reader.outputs[0] else last.inputs[0]
        nodes.append(last)
    elif reader.op_type == "Div" and reader.inputs[1] is root.outputs[0]:
        other = reader.inputs[0]
    else:
        return None
    if other is None or other is root.outputs[0]:
        return None
    if other not in deviations:
        deviations.append(other)
    return nodes


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    hidden = not node.outputs[0].is_graph_output()
    return uses[0].node if len(uses) == 1 and hidden and uses[0].node.graph is node.graph else None


def _axis(means: list[ir.Node], source: ir.Value) -> int | None:
    """The first of the axes that all these means go over, where they are the last ones."""
    width = rank(source)
    over = reduced_axes(means[0])
    if width is None or not over or any(reduced_axes(mean) != over for mean in means):
        return None
    last = over == list(range(over[0], width))
    static = all(static_size(source, axis) is not None for axis in over)
    keeps = all(mean.attributes.get_int("keepdims", True) for mean in means)
    return over[0] if last and static and keeps else None


def _affine(
    nodes: list[ir.Node], source: ir.Value, axis: int
) -> tuple[ir.Value | None, ir.Value | None, list[ir.Node]]:
    """Scale and bias that follow, of the shape of the axes normalised or less."""
    parameters: list[ir.Value | None] = []
    for operator in ("Mul", "Add"):
        reader = _only_reader(nodes[-1])
        value = None
        if reader is not None and reader.op_type == operator and not reader.domain:
            mine = nodes[-1].outputs[0]
            value = reader.inputs[1] if reader.inputs[0] is mine else reader.inputs[0]
        if reader is None or value is None or not _fits(value, source, axis):
            parameters.append(None)
            continue
        parameters.append(value)
        nodes = [*nodes, reader]
    return parameters[0], parameters[1], nodes


def _fits(value: ir.Value, source: ir.Value, axis: int) -> bool:
    """Whether an initializer has exactly the axes normalised, ones in front of them apart."""
    array = value.const_value
    sizes = [static_size(source, a) for a in range(axis, rank(source) or 0)]
    shape = list(array.shape.numpy()) if array is not None else []
    front = len(shape) - len(sizes)
    if array is None or front < 0 or len(shape) > (rank(source) or 0):
        return False
    return shape[front:] == sizes and all(size == 1 for size in shape[:front])


def _closed(pattern: Pattern) -> bool:
    """Whether nothing outside reads what is computed inside."""
    inside = set(pattern.nodes)
    return not any(
        node.outputs[0].is_graph_output()
        or any(use.node not in inside for use in node.outputs[0].uses())
        for node in pattern.nodes
        if node.outputs[0] is not pattern.result
    )


def _fuse(pattern: Pattern) -> None:
    """Replace the last node; scale and bias get the shape of the axes normalised."""
    last, dtype = pattern.nodes[-1], pattern.source.dtype
    graph = graph_of(last)
    assert dtype is not None
    axes = range(pattern.axis, rank(pattern.source) or 0)
    shape = [static_size(pattern.source, axis) or 0 for axis in axes]
    attributes = {"axis": -len(shape), "epsilon": pattern.epsilon, "stash_type": 1}
    node = ir.node("LayerNormalization", [pattern.source], attributes, name=last.name)
    graph.insert_after(last, node)
    for index, value in enumerate((pattern.scale, pattern.bias), start=1):
        if value is not None and list(value.shape or ()) == shape:
            node.resize_inputs(index + 1)
            node.replace_input_with(index, value)
        elif value is not None or index == 1:
            array = constant_array(value) if value is not None else np.ones(shape, dtype.numpy())
            hint = str(value.name) if value is not None else "scale"
            assert array is not None
            replace_input(node, index, array.reshape(shape), hint)
    replace_value(pattern.result, node.outputs[0])
    graph.remove(dict.fromkeys(pattern.nodes), safe=True)
