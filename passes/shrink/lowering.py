"""Norms from which channels were cut, written down with the statistics of the old width.

Of N indices N' stay; those cut held zero, so with r = N'/N and means over those that stay

    mean = r mean(x),    var = r mean((x - mean)^2) + (1 - r) mean^2,    mean_square = r mean(x^2)

Both terms of the variance are positive: nothing cancels. An RMSNormalization stays what it is,

    x / sqrt(mean_square + e) = x / sqrt(mean(x^2) + e / r) / sqrt(r),

the last factor in its scale; only where that cannot be said exactly is it written out: epsilon is a
float32 in every ONNX model, too short for one in float64, and the scale may be computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note
from prunedeploy.passes import names as naming
from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import add_initializer, graph_of, names, replace_input, replace_value
from prunedeploy.passes.operators.channelwise import EPSILON
from prunedeploy.passes.operators.norms import WIDTH, normalised_axes, old_width
from prunedeploy.reference.opsets import opset

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def lower(graph: ir.Graph) -> list[Note]:
    """Write down every norm that remembers an old width; what was done, by the norm's name."""
    cut = [node for node in graph if old_width(node) is not None]
    taken = names(graph) | {str(value.name) for value in graph.inputs}
    notes = []
    for node in cut:
        width, left = old_width(node) or 1, _left(node)
        if node.op_type == "RMSNormalization" and _rescalable(node):
            _rescale(node, width / left)
        else:
            _write_out(_Writer(graph, node, taken), left / width)
        reason = f"{node.op_type}: the statistics of {left} indices count as those of {width}"
        notes.append(Note("norm-width-kept", node.name or "?", "info", reason, width - left))
    return notes


def _left(node: ir.Node) -> int:
    source = node.inputs[0]
    assert source is not None
    return math.prod(static_size(source, axis) or 1 for axis in normalised_axes(node))


def _rescalable(node: ir.Node) -> bool:
    source = node.inputs[0]
    double = source is not None and source.dtype == ir.DataType.DOUBLE
    return not double and constant_array(node.inputs[1]) is not None


def _rescale(node: ir.Node, more: float) -> None:
    """Epsilon and scale for ``more`` = N/N' times fewer indices."""
    scale = constant_array(node.inputs[1])
    assert scale is not None
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * more)
    scaled = (scale.astype(np.float64) * np.sqrt(more)).astype(scale.dtype)
    replace_input(node, 1, scaled, "scale")
    del node.metadata_props[WIDTH]


@dataclass(frozen=True)
class _Writer:
    """Adds nodes in front of ``norm``; ``taken`` are the names in use."""

    graph: ir.Graph
    norm: ir.Node
    taken: set[str]

    def add(self, operator: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """A new node's result."""
        node = ir.node(operator, list(inputs), attributes)
        node.name = self._name(operator.lower())
        node.outputs[0].name = self._name(f"{operator.lower()}.result")
        if inputs[0].dtype is not None:
            node.outputs[0].dtype = inputs[0].dtype
        self.graph.insert_before(self.norm, node)
        return node.outputs[0]

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` in another type."""
        result = self.add("Cast", value, to=int(dtype))
        result.dtype = dtype
        return result

    def number(self, number: float | list[int], like: ir.Value, what: str) -> ir.Value:
        """A new initializer: of the dtype of ``like``, or a list of integers."""
        assert like.dtype is not None
        dtype = np.dtype(np.int64) if isinstance(number, list) else like.dtype.numpy()
        return add_initializer(self.graph, self._name(what), np.array(number, dtype))

    def _name(self, what: str) -> str:
        return naming.unused(f"{self.norm.name or self.norm.outputs[0].name}.{what}", self.taken)


def _write_out(write: _Writer, r: float) -> None:
    norm = write.norm
    source, scale = norm.inputs[0], norm.inputs[1]
    assert source is not None
    assert scale is not None
    assert source.dtype is not None
    x = source
    if source.dtype in HALF:  # statistics are taken in float32
        x = write.cast(source, ir.DataType.FLOAT)
    ratio = write.number(r, x, "ratio")
    epsilon = write.number(norm.attributes.get_float("epsilon", EPSILON), x, "epsilon")
    if norm.op_type == "RMSNormalization":
        square = write.add("Mul", _mean(write, write.add("Mul", x, x)), ratio)
    else:
        mean = write.add("Mul", _mean(write, x), ratio)
        x = write.add("Sub", x, mean)
        near = write.add("Mul", _mean(write, write.add("Mul", x, x)), ratio)
        rest = write.number(1.0 - r, x, "rest")
        far = write.add("Mul", write.add("Mul", mean, mean), rest)
        square = write.add("Add", near, far)
    y = write.add("Div", x, write.add("Sqrt", write.add("Add", square, epsilon)))
    if scale.dtype is not None and y.dtype != scale.dtype:
        y = write.cast(y, scale.dtype)
    y = write.add("Mul", y, scale)
    if len(norm.inputs) > 2 and norm.inputs[2] is not None:
        y = write.add("Add", y, norm.inputs[2])
    replace_value(norm.outputs[0], y)
    graph_of(norm).remove(norm, safe=True)


def _mean(write: _Writer, value: ir.Value) -> ir.Value:
    axes = normalised_axes(write.norm)
    if opset(write.graph) < 18:
        return write.add("ReduceMean", value, axes=axes, keepdims=1)
    return write.add("ReduceMean", value, write.number(axes, value, "axes"), keepdims=1)
