"""Which dimensions of two values are equal for every input, though their lengths are not known.

Shape inference gives every dynamic dimension behind a convolution a name of its own. Here they are
numbered by what computes them: two convolutions with the same window on maps of equal size give
maps of equal size, and a window that moves by one and is padded to match changes no size.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import rank
from prunedeploy.passes.operators.elementwise import ELEMENTWISE
from prunedeploy.reference.torch_kernels import window

# The result is as long as the first input along every axis.
AS_SOURCE = {"BatchNormalization", "Dropout", "InstanceNormalization", "LayerNormalization"}
AS_SOURCE |= {"LogSoftmax", "Softmax", "LRN"}
WINDOW = {"AveragePool", "Conv", "MaxPool"}

Extent = Hashable  # an int for a known length; equal extents are equal lengths


class Extents:
    """The lengths of all axes of a graph; nodes in topological order."""

    def __init__(self, graph: ir.Graph) -> None:
        self._known: dict[tuple[ir.Value, int], Extent] = {}
        for node in graph:
            _follow(node, self)

    def of(self, value: ir.Value) -> list[Extent]:
        """One entry an axis; nothing where the rank is not known."""
        return [self._axis(value, axis) for axis in range(rank(value) or 0)]

    def learn(self, value: ir.Value, axis: int, extent: Extent) -> None:
        """Record the length of a dynamic axis."""
        self._known[value, axis] = extent

    def _axis(self, value: ir.Value, axis: int) -> Extent:
        assert value.shape is not None
        dim = value.shape[axis]
        if isinstance(dim, int):
            return dim
        if (value, axis) in self._known:
            return self._known[value, axis]
        return dim.value if dim.value is not None else (value, axis)


def _follow(node: ir.Node, extents: Extents) -> None:
    source = node.inputs[0] if node.inputs else None
    if node.domain not in ("", "ai.onnx") or source is None:
        return
    if node.op_type in ELEMENTWISE:
        _follow_broadcast(node, extents)
    elif node.op_type in WINDOW:
        _follow_window(node, source, extents)
    elif node.op_type in AS_SOURCE and rank(node.outputs[0]) == rank(source):
        for axis, extent in enumerate(extents.of(source)):
            extents.learn(node.outputs[0], axis, extent)


def _follow_broadcast(node: ir.Node, extents: Extents) -> None:
    """The operands' common length, where one is agreed on by all that are not of length one."""
    result = node.outputs[0]
    width = rank(result) or 0
    shapes = [extents.of(value) for value in node.inputs if value is not None]
    for axis in range(width):
        aligned = [s[axis - width] for s in shapes if len(s) >= width - axis]
        wide = {extent for extent in aligned if extent != 1}
        if len(wide) == 1:
            extents.learn(result, axis, wide.pop())


def _follow_window(node: ir.Node, source: ir.Value, extents: Extents) -> None:
    before, result = extents.of(source), node.outputs[0]
    weight = node.inputs[1] if node.op_type == "Conv" else None
    given = list(weight.shape or ())[2:] if weight is not None else []
    kernel = [dim for dim in given if isinstance(dim, int)]
    kernel = kernel or list(node.attributes.get_ints("kernel_shape", []))
    if len(before) != len(kernel) + 2 or rank(result) != len(before):
        return
    extents.learn(result, 0, before[0])
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return
    strides, dilations, pads = window(node, kernel, kernel)
    ceil = node.attributes.get_int("ceil_mode", 0)
    for axis, (taps, step, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        shorter = (taps - 1) * dilation - pads[axis] - pads[axis + len(kernel)]
        length = before[2 + axis]
        if shorter or step != 1:
            length = ("window", length, shorter, step, ceil)
        extents.learn(result, 2 + axis, length)
