"""The steps that each operator of a graph becomes, on views that layout assignment gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.plan import steps
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.layout import LayoutAssigner
from prunedeploy.runtimes.sparse.plan.steps import View


def image(view: View, channel: int, window: bool) -> View:
    """A planar view of any rank as [N, C, H, W]: sequences have H = 1, tokens are W of one image.

    Vectors of features are images of one pixel.
    """
    shape = view.shape
    channels = shape[channel]
    if window:
        four = (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape
    elif len(shape) == 2 and channel == 1:
        four = (shape[0], channels, 1, 1)
    else:
        four = (1, channels, 1, math.prod(shape[:channel] + shape[channel + 1 :]))
    return replace(steps.planar(view.buffer, four, 1), offset=view.offset)


def _conv(assigner: LayoutAssigner, op: ops.ConvOp) -> None:
    views = [assigner.planes(tensor, op.channel) for tensor in op.inputs]
    y = assigner.result(op)
    x, *residual = (image(view, op.channel, op.window) for view in views)
    assigner.add(
        steps.Conv(
            assigner.name(op.name),
            x,
            image(y, op.channel, op.window),
            op.weight,
            op.bias,
            op.strides,
            op.pads,
            op.dilations,
            op.groups,
            residual[0] if residual else None,
            op.activation,
        )
    )


def _elementwise(assigner: LayoutAssigner, op: ops.ElementwiseOp) -> None:
    y = assigner.result(op)
    tensors, constants, code = e.code(op.expr)
    inputs = tuple(assigner.broadcast(tensor, y) for tensor in tensors)
    assigner.add(steps.Map(assigner.name(op.name), inputs, y, code, constants))


def _convert(assigner: LayoutAssigner, op: ops.ConvertOp) -> None:
    assigner.add(
        steps.Copy(assigner.name(op.name), assigner.view(op.inputs[0]), assigner.result(op))
    )


def _pad(assigner: LayoutAssigner, op: ops.PadOp) -> None:
    x, outer = assigner.view(op.inputs[0]), assigner.result(op)
    offset = outer.offset + sum(n * s for n, s in zip(op.before, outer.strides, strict=True))
    inner = View(outer.buffer, x.shape, outer.strides, offset)
    assigner.add(steps.Copy(assigner.name(op.name), x, inner, op.fill, outer))


def _pool(assigner: LayoutAssigner, op: ops.PoolOp) -> None:
    x = image(assigner.planes(op.inputs[0], 1), 1, True)
    y = image(assigner.result(op), 1, True)
    assigner.add(
        steps.Pool(
            assigner.name(op.name),
            x,
            y,
            op.kind,
            op.kernel,
            op.strides,
            op.pads,
            op.dilations,
            op.count_include_pad,
        )
    )


def _resize(assigner: LayoutAssigner, op: ops.ResizeOp) -> None:
    x = image(assigner.planes(op.inputs[0], 1), 1, True)
    y = image(assigner.result(op), 1, True)
    assigner.add(steps.Resize(assigner.name(op.name), x, y, op.rows, op.columns))


def _reduce(assigner: LayoutAssigner, op: ops.ReduceOp) -> None:
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    kind: Any = op.kind
    assigner.add(steps.Reduce(assigner.name(op.name), x, y, kind, op.axes))


def _softmax(assigner: LayoutAssigner, op: ops.SoftmaxOp) -> None:
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    assigner.add(steps.Softmax(assigner.name(op.name), x, y, op.axis, op.log))


def _norm(assigner: LayoutAssigner, op: ops.NormOp) -> None:
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    assigner.add(
        steps.Norm(assigner.name(op.name), x, y, op.axes, op.epsilon, op.scale, op.bias, op.centre)
    )


def _matmul(assigner: LayoutAssigner, op: ops.MatMulOp) -> None:
    y = assigner.result(op)
    a, b = (assigner.view(tensor) for tensor in op.inputs[:2])
    bias = assigner.broadcast(op.inputs[2], y) if len(op.inputs) > 2 else None
    assigner.add(steps.MatMul(assigner.name(op.name), a, b, y, op.alpha, bias))


def _lookup(assigner: LayoutAssigner, op: ops.LookupOp) -> None:
    indices, y = assigner.view(op.inputs[0]), assigner.result(op)
    assigner.add(steps.Lookup(assigner.name(op.name), indices, y, op.table))


def _concat(assigner: LayoutAssigner, op: ops.ConcatOp) -> None:
    assigner.views[op.output] = assigner.targets[op.output]
    for tensor, part in zip(op.inputs, assigner.parts(op), strict=True):
        view = assigner.view(tensor)
        if not layout.same(view, part):
            assigner.copy(op.name, view, part)


def _gather(assigner: LayoutAssigner, op: ops.GatherOp) -> None:
    """A Copy for each run of consecutive indices."""
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    start = 0
    for position in range(1, len(op.indices) + 1):
        ends = position == len(op.indices)
        if not ends and op.indices[position] == op.indices[position - 1] + 1:
            continue
        shape = list(y.shape)
        shape[op.axis] = position - start
        parts = [
            View(v.buffer, tuple(shape), v.strides, v.offset + first * v.strides[op.axis])
            for v, first in ((x, op.indices[start]), (y, start))
        ]
        assigner.copy(op.name, *parts)
        start = position


EMITTERS: dict[type, Callable[[LayoutAssigner, Any], None]] = {
    ops.ConvOp: _conv,
    ops.ElementwiseOp: _elementwise,
    ops.ConvertOp: _convert,
    ops.PadOp: _pad,
    ops.PoolOp: _pool,
    ops.ResizeOp: _resize,
    ops.ReduceOp: _reduce,
    ops.SoftmaxOp: _softmax,
    ops.NormOp: _norm,
    ops.MatMulOp: _matmul,
    ops.LookupOp: _lookup,
    ops.ConcatOp: _concat,
    ops.GatherOp: _gather,
}


def plan_graph(
    graph: ops.Graph, inputs: dict[str, ops.Tensor], outputs: Sequence[str], batch: int
) -> steps.Plan:
    """The plan of a graph: every tensor laid out, and a step or more for each operator."""
    return LayoutAssigner(graph, EMITTERS).plan(inputs, outputs, batch)
