"""Quantised operators: integers with a scale and a zero point."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.reference.casts import FLOAT8, cast_to, saturated
from prunedeploy.reference.layers import convolve
from prunedeploy.reference.table import Numbers, Table, along, has, integer, same, within

INTEGERS = (
    *(ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16),
    *(ir.DataType.UINT4, ir.DataType.INT4, ir.DataType.UINT2, ir.DataType.INT2),
)


def _broadcast(node: ir.Node, vector: Numbers, x: Numbers) -> Numbers:
    """A scale or zero point in the shape of ``x``: for all, an axis, or blocks along an axis."""
    block = integer(node, "block_size", 0)
    if vector.size == 1 and not block:
        return vector.reshape(())
    axis = within(integer(node, "axis", 1), x.ndim)
    if block:
        wide = np.repeat(vector, block, axis)
        return wide.take(range(x.shape[axis]), axis)
    if vector.ndim != 1 or len(vector) != x.shape[axis]:
        raise ValueError(f"a scale of shape {list(vector.shape)} for axis {axis}")
    return along(vector, axis, x.ndim)


def _per_tensor(*vectors: Numbers | None) -> None:
    if any(v is not None and v.size != 1 for v in vectors):
        raise ValueError("a scale of several numbers, which came with opset 13")


def rounded(x: Numbers, zero: Any, target: ir.DataType) -> Numbers:
    """To the nearest integer, halves to the even one, moved by ``zero`` and cut to the type."""
    limits = ml_dtypes.iinfo(target.numpy())  # type: ignore[no-untyped-call]
    moved = np.rint(x).astype(np.float64) + np.asarray(zero).astype(np.float64)
    return np.clip(moved, int(limits.min), int(limits.max)).astype(np.int64).astype(target.numpy())


def _quantise(node: ir.Node, x: Numbers, scale: Numbers, zero: Numbers | None = None) -> Any:
    """``axis`` came with opset 13, ``saturate`` with 19, types and blocks with 21."""
    if zero is not None:
        target = ir.DataType.from_numpy(zero.dtype)
    else:
        target = ir.DataType(integer(node, "output_dtype", 0) or ir.DataType.UINT8)
    if precision := integer(node, "precision", 0):
        kind = ir.DataType(precision).numpy()
        x, scale = x.astype(kind), scale.astype(kind)
    elif scale.dtype == ml_dtypes.float8_e8m0fnu or x.dtype.kind in "iu":
        x, scale = x.astype(np.float32), scale.astype(np.float32)
    quotient = x / _broadcast(node, scale, x)
    offset: Any = 0 if zero is None else _broadcast(node, zero, x)
    if target in INTEGERS:
        return rounded(quotient, offset, target)
    moved = quotient if zero is None else quotient + offset.astype(quotient.dtype)
    if target in FLOAT8 and integer(node, "saturate", 1):
        return saturated(moved, target)
    return cast_to(moved, target, saturate=False)


def _quantise_10(node: ir.Node, x: Numbers, scale: Numbers, zero: Numbers | None = None) -> Any:
    _per_tensor(scale, zero)
    return _quantise(node, x, scale, zero)


def _dequantise(node: ir.Node, x: Numbers, scale: Numbers, zero: Numbers | None = None) -> Numbers:
    """Dequantise to the type of the scale, or to ``output_dtype`` (from opset 23 on)."""
    kind = scale.dtype
    if has(node, "output_dtype") and integer(node, "output_dtype", 0):
        kind = ir.DataType(integer(node, "output_dtype", 0)).numpy()
        if kind == np.float32 and scale.dtype == np.float64:
            kind = scale.dtype  # of a model that is evaluated in float64
    wide = np.float64 if kind == np.float64 else np.float32
    whole = np.int64 if x.dtype.kind in "iu" or "int" in x.dtype.name else wide
    moved = x.astype(whole)
    if zero is not None:
        moved = moved - _broadcast(node, zero, x).astype(whole)
    scaled: Numbers = moved.astype(wide) * _broadcast(node, scale, x).astype(wide)
    return scaled.astype(kind)


def _dequantise_10(
    node: ir.Node, x: Numbers, scale: Numbers, zero: Numbers | None = None
) -> Numbers:
    _per_tensor(scale, zero)
    return _dequantise(node, x, scale, zero)


def _dynamic(_: ir.Node, x: Numbers) -> tuple[Numbers, ...]:
    """uint8 over the range of x, which is made to hold zero."""
    low = np.minimum(x.min(initial=0), x.dtype.type(0))
    high = np.maximum(x.max(initial=0), x.dtype.type(0))
    scale = np.asarray((high - low) / 255, x.dtype)
    safe = scale if scale else np.ones_like(scale)
    zero = np.asarray(np.clip(np.rint(-low / safe), 0, 255)).astype(np.uint8)
    return rounded(x / safe, zero, ir.DataType.UINT8), scale, zero


def _less(x: Numbers, zero: Numbers | None, shape: Any = ()) -> Numbers:
    """Exact: products of 8 bits, and their sums in 32, are float64 numbers."""
    wide = x.astype(np.float64)
    if zero is None:
        return wide
    return wide - (zero.reshape(()) if zero.size == 1 else zero.reshape(shape)).astype(np.float64)


def _rows(vector: Numbers | None) -> tuple[int, ...]:
    """A vector has a number a row; an array of more axes fits as it is."""
    if vector is None:
        return ()
    return (-1, 1) if vector.ndim == 1 else vector.shape


def _columns(vector: Numbers | None) -> tuple[int, ...]:
    if vector is None:
        return ()
    return (1, -1) if vector.ndim == 1 else vector.shape


def _matmul_integer(
    _: ir.Node, a: Numbers, b: Numbers, a_zero: Numbers | None = None, b_zero: Numbers | None = None
) -> Any:
    product = np.matmul(_less(a, a_zero, _rows(a_zero)), _less(b, b_zero, _columns(b_zero)))
    return product.astype(np.int64).astype(np.int32)


def _conv_integer(
    node: ir.Node,
    x: Numbers,
    w: Numbers,
    x_zero: Numbers | None = None,
    w_zero: Numbers | None = None,
) -> Any:
    filters = _less(w, w_zero, (-1, *[1] * (w.ndim - 1)))
    result = convolve(node, _less(x, x_zero), filters)
    return np.rint(result).astype(np.int64).astype(np.int32)


def _requantised(total: Numbers, factor: Numbers, zero: Numbers) -> Numbers:
    """The sums in the type of the scales, as engines have them: ties depend on it."""
    wide = np.float64 if factor.dtype == np.float64 else np.float32
    scaled = total.astype(wide) * factor.astype(wide)
    return rounded(scaled, zero.reshape(()), ir.DataType.from_numpy(zero.dtype))


def _scale(vector: Numbers, shape: Any) -> Any:
    wide = vector if vector.dtype == np.float64 else vector.astype(np.float32)
    return wide.reshape(()) if vector.size == 1 else wide.reshape(shape)


def _qlinear_conv(
    node: ir.Node,
    x: Numbers,
    x_scale: Numbers,
    x_zero: Numbers,
    w: Numbers,
    w_scale: Numbers,
    w_zero: Numbers,
    y_scale: Numbers,
    y_zero: Numbers,
    bias: Numbers | None = None,
) -> Numbers:
    total = _conv_integer(node, x, w, x_zero, w_zero).astype(np.int64)
    shape = (-1, *[1] * (w.ndim - 2))
    if bias is not None:
        total = total + bias.reshape(shape)
    factor = _scale(x_scale, ()) * _scale(w_scale, shape) / _scale(y_scale, ())
    return _requantised(total, factor, y_zero)


def _qlinear_matmul(
    node: ir.Node,
    a: Numbers,
    a_scale: Numbers,
    a_zero: Numbers,
    b: Numbers,
    b_scale: Numbers,
    b_zero: Numbers,
    y_scale: Numbers,
    y_zero: Numbers,
) -> Numbers:
    total = _matmul_integer(node, a, b, a_zero, b_zero).astype(np.int64)
    left, right = _scale(a_scale, _rows(a_scale)), _scale(b_scale, _columns(b_scale))
    factor = left * right / _scale(y_scale, ())
    return _requantised(total, factor, y_zero)


LATER = (13, 19, 21, 23, 24, 25, 28)

TABLE: Table = {
    "ConvInteger": same(_conv_integer, 10),
    "DequantizeLinear": same(_dequantise_10, 10) | same(_dequantise, *LATER),
    "DynamicQuantizeLinear": same(_dynamic, 11),
    "MatMulInteger": same(_matmul_integer, 10),
    "QLinearConv": same(_qlinear_conv, 10),
    "QLinearMatMul": same(_qlinear_matmul, 10, 21),
    "QuantizeLinear": same(_quantise_10, 10) | same(_quantise, *LATER),
}
