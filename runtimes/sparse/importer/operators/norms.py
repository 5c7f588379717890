"""Softmax, normalisations and reductions."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.reference.opsets import softmax_axes
from prunedeploy.runtimes.sparse.importer.expr import Expr, number
from prunedeploy.runtimes.sparse.importer.graph import NormOp, SoftmaxOp, Tensor
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer


def softmax(call: Call) -> Tensor:
    """Softmax over one axis; before opset 13 over all axes from one on."""
    x, log, build = call.real(0), call.node.op_type == "LogSoftmax", call.build
    axes = softmax_axes(call.node, x.rank)
    if len(axes) == 1:
        return build.add(SoftmaxOp(build.name, [x], Tensor(x.shape), axes[0], log))
    flat = build.reshape(x, (*x.shape[: axes[0]], math.prod(x.shape[axes[0] :])))
    y = build.add(SoftmaxOp(build.name, [flat], Tensor(flat.shape), axes[0], log))
    return build.reshape(y, x.shape)


def _parameter(call: Call, index: int, shape: tuple[int, ...]) -> Array | None:
    array = call.constant(index, "scale or bias")
    return None if array is None else array.astype(np.float32).reshape(shape)


def layer_norm(call: Call) -> Tensor:
    """Layer norm over the axes from ``axis`` on."""
    x, axis = call.real(0), call.axis(-1)
    centre = "RMS" not in call.node.op_type and "Simplified" not in call.node.op_type
    front = (1,) * x.rank
    scale, bias = (
        None
        if array is None
        else array.astype(np.float32).reshape((*front, *array.shape)[-x.rank :])
        for array in (call.constant(i, "scale or bias") for i in (1, 2))
    )
    epsilon = call.number("epsilon", 1e-5)
    axes = tuple(range(axis, x.rank))
    return call.build.add(
        NormOp(call.build.name, [x], Tensor(x.shape), axes, epsilon, scale, bias, centre)
    )


def instance_norm(call: Call) -> Tensor:
    """Instance norm over the spatial axes."""
    x = call.real(0)
    shape = (1, -1, *[1] * (x.rank - 2))
    scale, bias = (_parameter(call, i, shape) for i in (1, 2))
    axes = tuple(range(2, x.rank))
    op = NormOp(
        call.build.name, [x], Tensor(x.shape), axes, call.number("epsilon", 1e-5), scale, bias
    )
    return call.build.add(op)


def group_norm(call: Call) -> Tensor:
    """Group norm over the channels of a group and the spatial axes."""
    x, groups, build = call.real(0), call.integer("num_groups", 1), call.build
    channels = x.shape[1]
    inner = (groups, channels // groups)
    ones = [1] * (x.rank - 2)

    def parameter(index: int) -> Array | None:
        array = call.constant(index, "scale or bias")
        if array is None:
            return None
        if array.size == groups != channels:  # opset 18 has one number a group
            return array.astype(np.float32).reshape(1, groups, 1, *ones)
        return array.astype(np.float32).reshape(1, *inner, *ones)

    split = build.reshape(x, (x.shape[0], *inner, *x.shape[2:]))
    epsilon = call.number("epsilon", 1e-5)
    axes = tuple(range(2, split.rank))
    op = NormOp(build.name, [split], Tensor(split.shape), axes, epsilon, parameter(1), parameter(2))
    return build.reshape(build.add(op), x.shape)


def lp_norm(call: Call) -> Tensor:
    """x divided by its norm along an axis; 0 where that is 0."""
    x, build = call.real(0), call.build
    kind = "l1" if call.integer("p", 2) == 1 else "l2"
    total = build.operand(build.reduce(x, kind, [call.axis(-1)]))
    none = Expr("equal", (total, number(0.0)))
    quotient = Expr("div", (build.operand(x), total))
    return build.elementwise(Expr("where", (none, number(0.0), quotient)), x.shape)


def mean_variance(call: Call) -> Tensor:
    """(x - mean) / (deviation + 1e-9): its epsilon is outside of the root."""
    x, build = call.real(0), call.build
    axes = [axis % x.rank for axis in call.sequence("axes", [0, 2, 3])]
    centred = build.apply("sub", x, build.reduce(x, "mean", axes))
    variance = build.reduce(build.apply("mul", centred, centred), "mean", axes)
    root = Expr("add", (Expr("sqrt", (build.operand(variance),)), number(1e-9)))
    return build.elementwise(Expr("div", (build.operand(centred), root)), x.shape)


def _reduce(kind: str) -> Importer:
    def run(call: Call) -> Tensor:
        x = call.real(0)
        axes = call.ints(1, "axes", "axes")
        if not axes:
            axes = [] if call.integer("noop_with_empty_axes", 0) else list(range(x.rank))
        axes = sorted({axis % x.rank for axis in axes})
        keepdims = bool(call.integer("keepdims", 1))
        if kind == "logsum":
            total = call.build.reduce(x, "sum", axes, keepdims)
            return call.build.apply("log", total)
        if not axes and kind not in ("sum", "mean", "max", "min", "prod"):
            raise call.refuse("it reduces no axis")
        return call.build.reduce(x, kind, axes, keepdims)

    return run


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
TABLE: dict[str, Importer] = {
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "SimplifiedLayerNormalization": layer_norm,
    "com.microsoft::SimplifiedLayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance,
    **{f"Reduce{kind}": _reduce(kind.lower()) for kind in REDUCTIONS},
}
