"""A model of what a network costs in a stock runtime, for machines that are not at hand.

The unit is a multiply-accumulate of a dense convolution. Stock runtimes compute channels in blocks
as wide as a vector register (on GPUs, as a tile of the tensor cores), so channel counts are rounded
up to ``Target.multiple``. ONNX Runtime's blocked kernels also read channels in fours: a layer whose
input channels are no multiple of four falls back to slower kernels and changes the layout around
itself. The factors below were measured on an AMD EPYC with AVX-512, ONNX Runtime 1.31, one thread,
layers of 64 to 192 channels on 14x14 and 28x28 (``benchmarks/odd_channels.py``).
"""

from __future__ import annotations

import math

import onnx_ir as ir

from prunedeploy.graph import work
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.table import layer_of
from prunedeploy.targets import Target

READ_IN = 4  # channels: what blocked kernels of ONNX Runtime need the input channels a multiple of
UNBLOCKED = 1.2  # times as long as blocked: a dense convolution with other input channels
UNBLOCKED_DEPTHWISE = 2.8  # and a depthwise one
DEPTHWISE = 4.0  # multiply-accumulates of dense layers in the time of a depthwise one
MOVED = 16.0  # multiply-accumulates in the time that one element is loaded, changed and stored
MOVES = ("Add", "Gather", "Concat", "Slice", "Pad")


def cost(model: ir.Model, target: Target) -> float:
    """The cost of one sample, in multiply-accumulates.

    Args:
        model: with the shapes of its values filled in; what has no known size costs nothing.
        target: whose ``multiple`` is the width of a block.
    """
    return sum(_node_cost(node, target) for node in model.graph)


def _node_cost(node: ir.Node, target: Target) -> float:
    linear = layer_of(node)
    if linear is not None and (macs := work.macs(node)):
        return macs * _layer_factor(linear, target)
    if node.op_type in MOVES and node.outputs[0].shape is not None:
        sizes = [dim for dim in list(node.outputs[0].shape)[1:] if isinstance(dim, int)]
        return MOVED * math.prod(sizes)
    return 0.0


def _layer_factor(linear: Layer, target: Target) -> float:
    """The cost of a multiply-accumulate of the layer, relative to a layer without padding."""
    rows, width = linear.rows().shape[:2]
    factor = _padded(rows, target.multiple)
    if linear.groups == 1:
        factor *= _padded(width, target.multiple)
    if target.compute_capability is not None or "Conv" not in linear.node.op_type:
        return factor
    channels = rows if linear.depthwise else width
    unblocked = channels > target.multiple and channels % READ_IN != 0
    if linear.depthwise:
        return factor * DEPTHWISE * (UNBLOCKED_DEPTHWISE if unblocked else 1.0)
    return factor * (UNBLOCKED if unblocked else 1.0)


def _padded(count: int, multiple: int) -> float:
    """The factor by which ``count`` grows when it is rounded up to ``multiple``."""
    return -(-count // multiple) * multiple / max(count, 1)
