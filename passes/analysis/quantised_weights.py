"""Weights that are dequantised from initializers of integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import rank


def scale_axis(node: ir.Node) -> int:
    """The axis that scales run along, where there are several."""
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    return int(node.attributes.get_int("axis", 1)) % (width or 1)


def is_whole(node: ir.Node) -> bool:
    """One scale for all, or one for each index of an axis; no blocks along an axis."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    blocks = node.attributes.get_int("block_size", 0)
    return not blocks and all(rank(value) in (0, 1) for value in parameters)


def dequantised(value: ir.Value) -> Array | None:
    """Return the array of a value dequantised from initializers; None for any other."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return None
    tensors = [each.const_value for each in node.inputs if each is not None]
    if len(tensors) != len(node.inputs) or None in tensors or not is_whole(node):
        return None
    integers, scale, *zero = (tensor.numpy() for tensor in tensors if tensor is not None)
    along = [1] * integers.ndim
    if scale.size > 1:
        along[scale_axis(node)] = -1
    wide = np.float64 if scale.dtype == np.float64 else np.float32
    offset = zero[0].astype(np.float64) if zero else np.zeros(())
    steps = integers.astype(np.float64) - offset.reshape(along if offset.size > 1 else ())
    return np.asarray((steps * scale.reshape(along if scale.size > 1 else ())).astype(wide))
