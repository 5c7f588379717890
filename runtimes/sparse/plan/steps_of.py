"""The steps that each operator of a graph becomes, on views that layout assignment gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.plan import steps
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.layout import LayoutAssigner
from prunedeploy.runtimes.sparse.plan.steps_of_quantised import EMITTERS as QUANTISED
from prunedeploy.runtimes.sparse.plan.views import View, image


def runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Evenly spaced runs, the longest from the front on: where each begins, its length and step."""
    result, start = [], 0
    while start < len(indices):
        step = indices[start + 1] - indices[start] if start + 1 < len(indices) else 1
        end = start + 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        # a pair that is no run may be the end of one and the beginning of the next
        if end - start == 2 and abs(step) != 1:
            end -= 1
        result.append((start, end - start, step))
        start = end
    return result


def _own(op: ops.Op, *left_out: str) -> dict[str, Any]:
    """All that an operator says beside its name and tensors; its step has the same fields."""
    names = (field.name for field in fields(op)[len(fields(ops.Op)) :])
    return {name: getattr(op, name) for name in names if name not in left_out}


def _step(
    kind: Callable[..., steps.Step], planar: bool = False
) -> Callable[[LayoutAssigner, ops.Op], None]:
    """The function of an operator that becomes one step ``kind``.

    Its tensors have any strides, or they are ``planar`` ones of shape [N, C, spatial axes].
    """

    def add(assigner: LayoutAssigner, op: ops.Op) -> None:
        source = op.inputs[0]
        x = assigner.planes(source, 1) if planar else assigner.view(source)
        y = assigner.result(op)
        if planar:
            x, y = image(x, 1, True), image(y, 1, True)
        assigner.add(kind(assigner.name(op.name), x, y, **_own(op)))

    return add


def _conv(assigner: LayoutAssigner, op: ops.ConvOp) -> None:
    planes = [assigner.planes(tensor, op.channel) for tensor in op.inputs]
    planes.append(assigner.result(op))
    x, *residual, y = (image(view, op.channel, op.window) for view in planes)
    added, own = (residual[0] if residual else None), _own(op, "window", "channel")
    assigner.add(steps.Conv(assigner.name(op.name), x, y, residual=added, **own))


def _elementwise(assigner: LayoutAssigner, op: ops.ElementwiseOp) -> None:
    y = assigner.result(op)
    tensors, constants, code = e.code(op.expr)
    inputs = tuple(assigner.broadcast(tensor, y) for tensor in tensors)
    assigner.add(steps.Map(assigner.name(op.name), inputs, y, code, constants))


def _pad(assigner: LayoutAssigner, op: ops.PadOp) -> None:
    x, outer = assigner.view(op.inputs[0]), assigner.result(op)
    offset = outer.offset + sum(n * s for n, s in zip(op.before, outer.strides, strict=True))
    inner = View(outer.buffer, x.shape, outer.strides, offset)
    assigner.add(steps.Copy(assigner.name(op.name), x, inner, op.fill, outer))


def _matmul(assigner: LayoutAssigner, op: ops.MatMulOp) -> None:
    y = assigner.result(op)
    a, b = (assigner.view(tensor) for tensor in op.inputs[:2])
    bias = assigner.broadcast(op.inputs[2], y) if len(op.inputs) > 2 else None
    assigner.add(steps.MatMul(assigner.name(op.name), a, b, y, op.alpha, bias))


def _take(assigner: LayoutAssigner, op: ops.TakeOp) -> None:
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    # along the axis that the indices stand for x does not move by itself
    shape = tuple(
        n if axis == op.axis else wide
        for axis, (n, wide) in enumerate(zip(x.shape, y.shape, strict=True))
    )
    wide = layout.broadcast(x, shape)
    still = tuple(0 if axis == op.axis else s for axis, s in enumerate(wide.strides))
    source = View(x.buffer, y.shape, still, x.offset)
    index = assigner.broadcast(op.inputs[1], y)
    size, stride = x.shape[op.axis], x.strides[op.axis]
    assigner.add(steps.Take(assigner.name(op.name), source, index, y, size, stride))


def _concat(assigner: LayoutAssigner, op: ops.ConcatOp) -> None:
    assigner.views[op.output] = assigner.targets[op.output]
    for tensor, part in zip(op.inputs, assigner.parts(op), strict=True):
        view = assigner.view(tensor)
        if not layout.same(view, part):
            assigner.copy(op.name, view, part)


def _gather(assigner: LayoutAssigner, op: ops.GatherOp) -> None:
    """A Copy for each run of evenly spaced indices."""
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    for start, count, step in runs(op.indices):
        shape = list(y.shape)
        shape[op.axis] = count
        parts = []
        for v, first, pace in ((x, op.indices[start], step), (y, start, 1)):
            strides = list(v.strides)
            strides[op.axis] *= pace
            at = v.offset + first * v.strides[op.axis]
            parts.append(View(v.buffer, tuple(shape), tuple(strides), at))
        assigner.copy(op.name, *parts)


def _recurrence(assigner: LayoutAssigner, op: ops.RecurrentOp) -> None:
    x, *states = (assigner.in_order(tensor) for tensor in op.inputs)
    y = assigner.arena(op.output.shape, layout.row_major(op.output.rank))
    assigner.views[op.output] = y
    hidden, cell = [*states, None, None][:2]
    name = assigner.name(op.name)
    assigner.add(steps.Recurrence(name, x, y, hidden=hidden, cell=cell, **_own(op)))


EMITTERS: dict[type, Callable[[LayoutAssigner, Any], None]] = {
    ops.ConvOp: _conv,
    ops.ElementwiseOp: _elementwise,
    ops.ConvertOp: _step(steps.Copy),
    ops.PadOp: _pad,
    ops.PoolOp: _step(steps.Pool, planar=True),
    ops.ResizeOp: _step(steps.Resize, planar=True),
    ops.ReduceOp: _step(steps.Reduce),
    ops.SoftmaxOp: _step(steps.Softmax),
    ops.NormOp: _step(steps.Norm),
    ops.MatMulOp: _matmul,
    ops.LookupOp: _step(steps.Lookup),
    ops.RecurrentOp: _recurrence,
    ops.TakeOp: _take,
    ops.TopOp: _step(steps.Top),
    ops.ConcatOp: _concat,
    ops.GatherOp: _gather,
    **QUANTISED,
}


def plan_graph(
    graph: ops.Graph, inputs: dict[str, ops.Tensor], outputs: Sequence[str], batch: int
) -> steps.Plan:
    """The plan of a graph: every tensor laid out, and a step or more for each operator."""
    return LayoutAssigner(graph, EMITTERS).plan(inputs, outputs, batch)
