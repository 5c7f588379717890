"""Scales and shifts of a layer's channels by constants are folded into its weights and bias.

a (W x + b) + c = (a W) x + (a b + c), computed in float64 and rounded once
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import ConvOp, ElementwiseOp, Graph, Tensor

Numbers = NDArray[np.float64]
Line = tuple[Numbers, Numbers]


def fold(graph: Graph) -> None:
    """Fold elementwise operators into the layer before, where nothing else reads its result."""
    users, producers = graph.users(), graph.producers()
    gone = []
    for op in graph.ops:
        if not isinstance(op, ElementwiseOp):
            continue
        layers = [producers.get(tensor) for tensor in op.inputs if tensor.value is None]
        layer = layers[0] if len(layers) == 1 else None
        if not isinstance(layer, ConvOp) or layer.output.shape != op.output.shape:
            continue
        if len(users[layer.output]) > 1 or layer.output in graph.outputs:
            continue
        line = _line(op.expr, layer)
        if line is not None:
            _apply(layer, line)
            layer.output = op.output
            producers[op.output] = layer
            gone.append(op)
    graph.remove(gone)


def _line(expr: Expr, layer: ConvOp) -> Line | None:
    """``expr`` as a * layer + c, a number of each a channel."""
    zero, one = np.zeros(1), np.ones(1)
    if expr.op == "number":
        return zero, np.asarray([expr.leaf])
    if expr.op == "tensor":
        if expr.leaf is layer.output:
            return one, zero
        numbers = _per_channel(expr.leaf, layer)
        return None if numbers is None else (zero, numbers)
    if expr.op == "identity":
        return _line(expr.operands[0], layer)
    if expr.op not in ("add", "sub", "mul", "div", "neg"):
        return None
    lines = [_line(operand, layer) for operand in expr.operands]
    known = [line for line in lines if line is not None]
    if len(known) < len(lines):
        return None
    if expr.op == "neg":
        return -known[0][0], -known[0][1]
    (a, c), (b, d) = known
    if expr.op in ("add", "sub"):
        sign = 1.0 if expr.op == "add" else -1.0
        return a + sign * b, c + sign * d
    if expr.op == "mul" and not b.any():
        return a * d, c * d
    if expr.op == "mul" and not a.any():
        return b * c, d * c
    if expr.op == "div" and not b.any() and d.all():
        return a / d, c / d
    return None


def _per_channel(tensor: Tensor, layer: ConvOp) -> Numbers | None:
    """A constant that varies along the layer's channels only, flat."""
    if tensor.value is None:
        return None
    rank = layer.output.rank
    shape = (1,) * (rank - tensor.rank) + tensor.shape
    if any(n != 1 for axis, n in enumerate(shape) if axis != layer.channel):
        return None
    return tensor.value.astype(np.float64).reshape(-1)


def _apply(layer: ConvOp, line: Line) -> None:
    factor, shift = line
    if (factor != 1).any():
        weight = layer.weight.astype(np.float64) * factor.reshape(-1, 1, 1, 1)
        layer.weight = weight.astype(np.float32)
    bias = layer.bias.astype(np.float64) * factor + shift
    layer.bias = bias.astype(np.float32)
