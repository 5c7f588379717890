"""Operators that are new in an opset, written in those that were there before.

Each is its definition in the ONNX specification, with shapes and types that are known written down.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.opset.emit import Emit, given, source, text, width

UNTYPED = "its type is not known"
NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def hard_swish(node: ir.Node, emit: Emit) -> str | None:
    """x HardSigmoid(x; 1/6, 1/2)."""
    x = source(node)
    emit.replace(emit("Mul", x, emit("HardSigmoid", x, alpha=1 / 6, beta=0.5)))
    return None


def mish(node: ir.Node, emit: Emit) -> str | None:
    """x tanh(softplus(x))."""
    x = source(node)
    emit.replace(emit("Mul", x, emit("Tanh", emit("Softplus", x))))
    return None


def swish(node: ir.Node, emit: Emit) -> str | None:
    """x sigmoid(alpha x)."""
    x = source(node)
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha != 1.0 and x.dtype is None:
        return UNTYPED
    scaled = x if alpha == 1.0 else emit("Mul", x, emit.number(alpha or 0.0, x))
    emit.replace(emit("Mul", x, emit("Sigmoid", scaled)))
    return None


def gelu(node: ir.Node, emit: Emit) -> str | None:
    """x/2 (1 + erf(x / sqrt 2)), or with tanh(sqrt(2/pi) (x + 0.044715 x^3)) in place of erf."""
    x = source(node)
    if x.dtype is None:
        return UNTYPED
    one, half = emit.number(1.0, x), emit.number(0.5, x)
    if text(node, "approximate", "none") == "tanh":
        cube = emit("Mul", emit("Mul", emit("Mul", x, x), x), emit.number(0.044715, x))
        inner = emit("Mul", emit("Add", x, cube), emit.number(math.sqrt(2 / math.pi), x))
        bent = emit("Tanh", inner)
    else:
        bent = emit("Erf", emit("Mul", x, emit.number(math.sqrt(0.5), x)))
    emit.replace(emit("Mul", emit("Mul", x, half), emit("Add", bent, one)))
    return None


def celu(node: ir.Node, emit: Emit) -> str | None:
    """Elu of the same slope on both sides of zero: max(0, x) + alpha min(0, exp(x/alpha) - 1)."""
    x = source(node)
    if x.dtype is None:
        return UNTYPED
    alpha = emit.number(node.attributes.get_float("alpha", 1.0) or 1.0, x)
    emit.replace(emit("Mul", emit("Elu", emit("Div", x, alpha), alpha=1.0), alpha))
    return None


def or_equal(node: ir.Node, emit: Emit) -> str | None:
    """Two comparisons: the opposite of the other one would be true for NaN."""
    strict = node.op_type.removesuffix("OrEqual")
    left, right = node.inputs[:2]
    emit.replace(emit("Or", emit(strict, left, right), emit("Equal", left, right)))
    return None


def trilu(node: ir.Node, emit: Emit) -> str | None:
    """Zero where the column is beyond the diagonal on one side of it."""
    x, shift = source(node), given(node, 1)
    if x.dtype is None:
        return UNTYPED
    whole = emit("Shape", x)
    lengths = [emit("Gather", whole, emit.constant(np.array(i, np.int64))) for i in (-2, -1)]
    zero, one = (emit.constant(np.array(i, np.int64)) for i in (0, 1))
    rows, columns = (emit("Range", zero, length, one) for length in lengths)
    rows = emit("Unsqueeze", rows, emit.ints(1))
    if shift is not None:
        rows = emit("Add", rows, shift)
    outside = "Less" if node.attributes.get_int("upper", 1) else "Greater"
    emit.replace(emit("Where", emit(outside, columns, rows), emit.number(0, x), x))
    return None


def layer_norm(node: ir.Node, emit: Emit) -> str | None:
    """(x - mean) / sqrt(var + epsilon) over the last axes, times scale plus bias."""
    if (axes := _last_axes(node)) is None:
        return UNTYPED
    wide = _widen(node, emit)
    mean = emit("ReduceMean", wide, axes=axes, keepdims=1)
    centred = emit("Sub", wide, mean)
    var = emit("ReduceMean", emit("Mul", centred, centred), axes=axes, keepdims=1)
    root = _root(node, emit, var)
    scaled = emit("Mul", _narrow(node, emit, emit("Div", centred, root)), node.inputs[1])
    if (bias := given(node, 2)) is not None:
        scaled = emit("Add", scaled, bias)
    results = [scaled, mean]
    if len(node.outputs) > 2:
        results.append(emit("Reciprocal", root))
    emit.replace(*results)
    return None


def rms_norm(node: ir.Node, emit: Emit) -> str | None:
    """x / sqrt(mean of squares + epsilon) over the last axes, times scale."""
    if (axes := _last_axes(node)) is None:
        return UNTYPED
    wide = _widen(node, emit)
    squares = emit("ReduceMean", emit("Mul", wide, wide), emit.ints(*axes), keepdims=1)
    normal = emit("Div", wide, _root(node, emit, squares))
    emit.replace(emit("Mul", _narrow(node, emit, normal), node.inputs[1]))
    return None


def _last_axes(node: ir.Node) -> list[int] | None:
    """The axes that a norm goes over; None where their number, or the type, is not known."""
    count = width(source(node))
    if source(node).dtype is None or count is None:
        return None
    return list(range((node.attributes.get_int("axis", -1) or 0) % count, count))


def group_norm(node: ir.Node, emit: Emit) -> str | None:
    """Every group as one channel of an InstanceNormalization; scale and bias for each channel."""
    x, count, groups = source(node), width(source(node)), node.attributes.get_int("num_groups", 0)
    if x.dtype is None or count is None or not groups:
        return UNTYPED
    normal = _group_statistics(node, emit, groups)
    flat = emit.ints(*[-1, *[1] * (count - 2)])
    scale, bias = (emit("Reshape", value, flat) for value in node.inputs[1:3])
    emit.replace(emit("Add", emit("Mul", normal, scale), bias))
    return None


def group_norm_by_groups(node: ir.Node, emit: Emit) -> str | None:
    """The same with scale and bias for each group, as opset 18 had it."""
    groups = node.attributes.get_int("num_groups", 0)
    if source(node).dtype is None or not groups:
        return UNTYPED
    emit.replace(_group_statistics(node, emit, groups, node.inputs[1], node.inputs[2]))
    return None


def _group_statistics(
    node: ir.Node,
    emit: Emit,
    groups: int,
    scale: ir.Value | None = None,
    bias: ir.Value | None = None,
) -> ir.Value:
    """The input normalised by groups, in the shape of the input."""
    x = source(node)
    by_groups = emit("Reshape", _widen(node, emit), emit.ints(0, groups, -1))
    wide = np.dtype(np.float32) if x.dtype in NARROW else x.dtype.numpy() if x.dtype else None
    if scale is None or bias is None:
        scale = emit.constant(np.ones(groups, wide), "scale")
        bias = emit.constant(np.zeros(groups, wide), "bias")
    elif x.dtype in NARROW:
        scale, bias = (emit("Cast", v, to=int(ir.DataType.FLOAT)) for v in (scale, bias))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normal = emit("InstanceNormalization", by_groups, scale, bias, epsilon=epsilon)
    return emit("Reshape", _narrow(node, emit, normal), emit("Shape", x))


def _widen(node: ir.Node, emit: Emit) -> ir.Value:
    """The input in float32, in which statistics of narrow numbers are taken."""
    x = source(node)
    stash = node.attributes.get_int("stash_type", 1)
    return emit("Cast", x, to=stash) if x.dtype in NARROW and stash != x.dtype else x


def _narrow(node: ir.Node, emit: Emit, value: ir.Value) -> ir.Value:
    """Back in the type of the input."""
    x = source(node)
    assert x.dtype is not None
    return emit("Cast", value, to=int(x.dtype)) if x.dtype in NARROW else value


def _root(node: ir.Node, emit: Emit, variance: ir.Value) -> ir.Value:
    x = source(node)
    assert x.dtype is not None
    kind = np.dtype(np.float32) if x.dtype in NARROW else x.dtype.numpy()
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return emit("Sqrt", emit("Add", variance, emit.constant(np.array(epsilon, kind), "epsilon")))
