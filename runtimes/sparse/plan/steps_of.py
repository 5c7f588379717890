"""The step of each operator, its views in hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.graph import (
    ConcatOp,
    ConvertOp,
    ConvOp,
    GatherOp,
    Graph,
    LookupOp,
    MapOp,
    MatMulOp,
    NormOp,
    PadOp,
    PoolOp,
    ReduceOp,
    ResizeOp,
    SoftmaxOp,
    Tensor,
)
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.layout import Placer
from prunedeploy.runtimes.sparse.plan.steps import (
    Conv,
    Copy,
    Lookup,
    Map,
    MatMul,
    Norm,
    Plan,
    Pool,
    Reduce,
    Resize,
    Softmax,
    View,
)
from prunedeploy.runtimes.sparse.plan.steps import planar as planar_view


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
    return replace(planar_view(view.buffer, four, 1), offset=view.offset)


def _conv(place: Placer, op: ConvOp) -> None:
    views = [place.planes(tensor, op.channel) for tensor in op.inputs]
    y = place.result(op)
    x, *residual = (image(view, op.channel, op.window) for view in views)
    place.add(
        Conv(
            place.name(op.name),
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


def _map(place: Placer, op: MapOp) -> None:
    y = place.result(op)
    tensors, constants, code = e.code(op.expr)
    inputs = tuple(place.spread(tensor, y) for tensor in tensors)
    place.add(Map(place.name(op.name), inputs, y, code, constants))


def _convert(place: Placer, op: ConvertOp) -> None:
    place.add(Copy(place.name(op.name), place.view(op.inputs[0]), place.result(op)))


def _pad(place: Placer, op: PadOp) -> None:
    x, outer = place.view(op.inputs[0]), place.result(op)
    offset = outer.offset + sum(n * s for n, s in zip(op.before, outer.strides, strict=True))
    inner = View(outer.buffer, x.shape, outer.strides, offset)
    place.add(Copy(place.name(op.name), x, inner, op.fill, outer))


def _pool(place: Placer, op: PoolOp) -> None:
    x = image(place.planes(op.inputs[0], 1), 1, True)
    y = image(place.result(op), 1, True)
    place.add(
        Pool(
            place.name(op.name),
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


def _resize(place: Placer, op: ResizeOp) -> None:
    x = image(place.planes(op.inputs[0], 1), 1, True)
    y = image(place.result(op), 1, True)
    place.add(Resize(place.name(op.name), x, y, op.rows, op.columns))


def _reduce(place: Placer, op: ReduceOp) -> None:
    x, y = place.view(op.inputs[0]), place.result(op)
    kind: Any = op.kind
    place.add(Reduce(place.name(op.name), x, y, kind, op.axes))


def _softmax(place: Placer, op: SoftmaxOp) -> None:
    x, y = place.view(op.inputs[0]), place.result(op)
    place.add(Softmax(place.name(op.name), x, y, op.axis, op.log))


def _norm(place: Placer, op: NormOp) -> None:
    x, y = place.view(op.inputs[0]), place.result(op)
    place.add(Norm(place.name(op.name), x, y, op.axes, op.epsilon, op.scale, op.bias, op.centre))


def _matmul(place: Placer, op: MatMulOp) -> None:
    y = place.result(op)
    a, b = (place.view(tensor) for tensor in op.inputs[:2])
    bias = place.spread(op.inputs[2], y) if len(op.inputs) > 2 else None
    place.add(MatMul(place.name(op.name), a, b, y, op.alpha, bias))


def _lookup(place: Placer, op: LookupOp) -> None:
    indices, y = place.view(op.inputs[0]), place.result(op)
    place.add(Lookup(place.name(op.name), indices, y, op.table))


def _concat(place: Placer, op: ConcatOp) -> None:
    place.views[op.output] = place.homes[op.output]
    for tensor, part in zip(op.inputs, place.parts(op), strict=True):
        found = place.view(tensor)
        if not layout.same(found, part):
            place.copy(op.name, found, part)


def _gather(place: Placer, op: GatherOp) -> None:
    """A Copy for each run of consecutive indices."""
    x, y = place.view(op.inputs[0]), place.result(op)
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
        place.copy(op.name, *parts)
        start = position


EMITTERS: dict[type, Callable[[Placer, Any], None]] = {
    ConvOp: _conv,
    MapOp: _map,
    ConvertOp: _convert,
    PadOp: _pad,
    PoolOp: _pool,
    ResizeOp: _resize,
    ReduceOp: _reduce,
    SoftmaxOp: _softmax,
    NormOp: _norm,
    MatMulOp: _matmul,
    LookupOp: _lookup,
    ConcatOp: _concat,
    GatherOp: _gather,
}


def plan_graph(graph: Graph, inputs: dict[str, Tensor], outputs: Sequence[str], batch: int) -> Plan:
    """The plan of a graph: every tensor laid out, and a step or more for each operator."""
    return Placer(graph, EMITTERS).plan(inputs, outputs, batch)
