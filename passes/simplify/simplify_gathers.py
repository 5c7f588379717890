"""A Gather that takes all elements of a flattened tensor in their own order is that tensor.

torch writes ``as_strided`` so, with indices computed from ranges and strides, behind many means
over a map; where the strides are those of the tensor itself it is a detour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.axes import rank, same_length
from prunedeploy.passes.analysis.facts import constant_array


@dataclass(frozen=True)
class SimplifyGathers:
    """Replace Reshape to one axis and Gather of everything by the tensor before both.

    Refuses silently where the order is not proved to be that of the elements, or the length of a
    dynamic axis not to be the same before and after.
    """

    name: ClassVar[str] = "simplify-gathers"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        shapes.infer_shapes(model)
        gone = 0
        for node in list(model.graph):
            source = _copied(node)
            if source is not None and not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(source)
                gone += 1
        if gone:
            common.RemoveUnusedNodesPass()(model)
        reason = "copies through a flattened tensor"
        note = Note("gathers-simplified", "graph", "taken", reason, gone)
        return PassResult(gone > 0, (note,) if gone else ())


@dataclass(frozen=True)
class Linear:
    """Indices ``step`` * position along the first of ``width`` axes + ``offsets`` (broadcast)."""

    step: int
    offsets: NDArray[np.int64]
    width: int  # number of axes; 0 for a scalar


def _copied(gather: ir.Node) -> ir.Value | None:
    """Return the value that a Gather copies element by element, None if it does anything else."""
    if gather.op_type != "Gather" or gather.inputs[0] is None or not gather.outputs[0].uses():
        return None
    flatten, result = gather.inputs[0].producer(), gather.outputs[0]
    if flatten is None or flatten.op_type != "Reshape" or rank(gather.inputs[0]) != 1:
        return None
    source = flatten.inputs[0]
    if source is None or source.shape is None or result.shape is None or not source.shape:
        return None
    inner = [dim for dim in source.shape[1:] if isinstance(dim, int)]
    if len(inner) != len(source.shape) - 1 or not _same_shape(source.shape, result.shape):
        return None
    linear = _linear(gather.inputs[1])
    first = source.shape[0]
    if linear is None or linear.width != len(source.shape):
        return None
    size = math.prod(inner)
    expected = np.arange(size).reshape(1, *inner)
    if linear.step:  # the first axis by its positions
        right = linear.step == size
    elif isinstance(first, int):
        expected, right = np.arange(first * size).reshape(first, *inner), True
    else:
        return None
    try:
        offsets = np.broadcast_to(linear.offsets, expected.shape)
    except ValueError:
        return None
    return source if right and (offsets == expected).all() else None


def _same_shape(one: ir.Shape, other: ir.Shape) -> bool:
    return len(one) == len(other) and all(map(same_length, one, other))


def _linear(value: ir.Value | None) -> Linear | None:
    """The value as a linear function of the position along its first axis."""
    constant = constant_array(value) if value is not None else None
    if constant is not None:
        return Linear(0, constant.astype(np.int64), constant.ndim)
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Range":
        start, step = constant_array(node.inputs[0]), constant_array(node.inputs[2])
        counted = start is not None and step is not None and start.item() == 0 == step.item() - 1
        return Linear(1, np.zeros(1, np.int64), 1) if counted else None
    if node.op_type == "Unsqueeze":
        return _unsqueezed(_linear(node.inputs[0]), constant_array(node.inputs[1]))
    if node.op_type in ("Add", "Mul"):
        left, right = _linear(node.inputs[0]), _linear(node.inputs[1])
        if left is None or right is None:
            return None
        return _added(left, right) if node.op_type == "Add" else _scaled(left, right)
    return None


def _unsqueezed(source: Linear | None, axes: NDArray[np.generic] | None) -> Linear | None:
    if source is None or axes is None:
        return None
    wanted = sorted(int(axis) for axis in axes.reshape(-1))
    if wanted != list(range(source.width, source.width + len(wanted))):
        return None  # only behind the others, so that the first axis stays the first
    shape = (*source.offsets.shape, *[1] * len(wanted))
    return Linear(source.step, source.offsets.reshape(shape), len(shape))


def _added(left: Linear, right: Linear) -> Linear | None:
    """The sum; positions along the first axis only where both have it."""
    width = max(left.width, right.width)
    if any(each.step and each.width != width for each in (left, right)):
        return None
    long = any(each.width == width and each.offsets.shape[:1] != (1,) for each in (left, right))
    if long and (left.step or right.step):
        return None  # offsets along the first axis say how long it is
    return Linear(left.step + right.step, np.asarray(left.offsets + right.offsets), width)


def _scaled(left: Linear, right: Linear) -> Linear | None:
    """The product with a number."""
    for one, other in ((left, right), (right, left)):
        if not other.step and other.offsets.size == 1 and other.width <= one.width:
            factor = int(other.offsets.item())
            return Linear(one.step * factor, one.offsets * factor, one.width)
    return None
