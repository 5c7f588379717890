"""Operators of one input that treat each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Kernel, Numbers, Table, integer, number, same, text

SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def unary(function: Callable[[Numbers], Any]) -> Kernel:
    """The kernel of a function without attributes."""
    return lambda _, x: function(x)


def erf(x: Numbers) -> Numbers:
    """The error function; of integers, which opset 13 took away, cut to an integer again."""
    import torch

    wide = np.ascontiguousarray(x if x.dtype.kind == "f" else x.astype(np.float64))
    values: Numbers = torch.erf(torch.from_numpy(wide.copy())).numpy()
    return values.astype(x.dtype).reshape(x.shape)


def sigmoid(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + small), small / (1 + small)), x.dtype)


def softplus(x: Numbers) -> Numbers:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def swish(x: Numbers, alpha: float = 1.0) -> Numbers:
    """x sigmoid(alpha x)."""
    return x * sigmoid(np.asarray(x * x.dtype.type(alpha)))


def _swish(node: ir.Node, x: Numbers) -> Numbers:
    return swish(x, number(node, "alpha", 1.0))


def _swiglu(node: ir.Node, gate: Numbers, value: Numbers) -> Numbers:
    return swish(gate, number(node, "alpha", 1.0)) * value


def _elu(node: ir.Node, x: Numbers) -> Numbers:
    alpha = number(node, "alpha", 1.0)
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _celu(node: ir.Node, x: Numbers) -> Numbers:
    alpha = number(node, "alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _selu(node: ir.Node, x: Numbers) -> Numbers:
    alpha, gamma = number(node, "alpha", SELU[0]), number(node, "gamma", SELU[1])
    return np.where(x > 0, gamma * x, gamma * (alpha * np.expm1(np.minimum(x, 0))))


def _leaky(node: ir.Node, x: Numbers) -> Numbers:
    return np.where(x < 0, x * number(node, "alpha", 0.01), x)


def _prelu(_: ir.Node, x: Numbers, slope: Numbers) -> Numbers:
    return np.where(x < 0, x * slope, x)


def _hard_sigmoid(node: ir.Node, x: Numbers) -> Numbers:
    alpha, beta = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    return np.clip(alpha * x + beta, 0, 1)


def _hard_swish(x: Numbers) -> Numbers:
    return x * np.clip(x / 6 + 0.5, 0, 1)


def _gelu(node: ir.Node, x: Numbers) -> Any:
    how = text(node, "approximate", "none")
    if how == "none":
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
    if how == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1 + np.tanh(inner))
    raise ValueError(f"approximate {how!r} is not known")


def _shrink(node: ir.Node, x: Numbers) -> Numbers:
    lambd, bias = number(node, "lambd", 0.5), number(node, "bias", 0.0)
    wide = x if x.dtype.kind == "f" else x.astype(np.float64)
    shrunk = np.where(wide < -lambd, wide + bias, np.where(wide > lambd, wide - bias, 0))
    return shrunk.astype(x.dtype)


def _thresholded(node: ir.Node, x: Numbers) -> Numbers:
    return np.where(x > number(node, "alpha", 1.0), x, x.dtype.type(0))


def _is_inf(node: ir.Node, x: Numbers) -> Numbers:
    if x.dtype.kind != "f":  # NumPy knows no order of the narrowest floats
        x = x.astype(np.float32)
    positive, negative = (integer(node, f"detect_{sign}", 1) for sign in ("positive", "negative"))
    infinite = np.zeros(x.shape, bool)
    if positive:
        infinite |= np.asarray(x == np.inf)
    if negative:
        infinite |= np.asarray(x == -np.inf)
    return infinite


def _is_nan(x: Numbers) -> Any:
    return np.isnan(x.astype(np.float32) if x.dtype.kind != "f" else x)


def _clip_attributes(node: ir.Node, x: Numbers) -> Numbers:
    """The bounds are attributes, by default the ends of float32."""
    largest = float(np.finfo(np.float32).max)
    low, high = number(node, "min", -largest), number(node, "max", largest)
    return _clip(node, x, np.array(low).astype(x.dtype), np.array(high).astype(x.dtype))


def _clip(_: ir.Node, x: Numbers, low: Any = None, high: Any = None) -> Numbers:
    """Clip; bounds default to the largest finite numbers, and the upper one has precedence."""
    if x.dtype.kind not in "iu":
        limits = ml_dtypes.finfo(x.dtype)  # type: ignore[no-untyped-call]
        low = np.asarray(limits.min) if low is None else low
        high = np.asarray(limits.max) if high is None else high
    if low is not None:
        x = np.maximum(x, low.reshape(()).astype(x.dtype))
    if high is not None:
        x = np.minimum(x, high.reshape(()).astype(x.dtype))
    return x


def _bit_cast(node: ir.Node, x: Numbers) -> Numbers:
    target = ir.DataType(integer(node, "to", 0)).numpy()
    if target.itemsize != x.dtype.itemsize:
        raise ValueError(f"elements of {x.dtype} have another size than those of {target}")
    return np.ascontiguousarray(x).view(target).reshape(x.shape)


def _mish(x: Numbers) -> Numbers:
    return x * np.tanh(softplus(x))


def _softsign(x: Numbers) -> Any:
    return x / (1 + np.abs(x))


def _reciprocal(x: Numbers) -> Numbers:
    return 1 / x


def _relu(x: Numbers) -> Any:
    return np.maximum(x, x.dtype.type(0))


TABLE: Table = {
    "Abs": same(unary(np.abs), 6, 13),
    "Acos": same(unary(np.arccos), 7, 22),
    "Acosh": same(unary(np.arccosh), 9, 22),
    "Asin": same(unary(np.arcsin), 7, 22),
    "Asinh": same(unary(np.arcsinh), 9, 22),
    "Atan": same(unary(np.arctan), 7, 22),
    "Atanh": same(unary(np.arctanh), 9, 22),
    "BitCast": same(_bit_cast, 26),
    "BitwiseNot": same(unary(np.invert), 18),
    "Ceil": same(unary(np.ceil), 6, 13),
    "Celu": same(_celu, 12, 28),
    "Clip": same(_clip_attributes, 6) | same(_clip, 11, 12, 13),
    "Cos": same(unary(np.cos), 7, 22),
    "Cosh": same(unary(np.cosh), 9, 22),
    "Elu": same(_elu, 6, 22),
    "Erf": same(unary(erf), 9, 13),
    "Exp": same(unary(np.exp), 6, 13),
    "Floor": same(unary(np.floor), 6, 13),
    "Gelu": same(_gelu, 20),
    "HardSigmoid": same(_hard_sigmoid, 6, 22),
    "HardSwish": same(unary(_hard_swish), 14, 22),
    "IsInf": same(_is_inf, 10, 20),
    "IsNaN": same(unary(_is_nan), 9, 13, 20),
    "LeakyRelu": same(_leaky, 6, 16),
    "Log": same(unary(np.log), 6, 13),
    "Mish": same(unary(_mish), 18, 22),
    "Neg": same(unary(np.negative), 6, 13),
    "Not": same(unary(np.logical_not), 1),
    "PRelu": same(_prelu, 7, 9, 16),
    "Reciprocal": same(unary(_reciprocal), 6, 13),
    "Relu": same(unary(_relu), 6, 13, 14),
    "Round": same(unary(np.rint), 11, 22),  # halves to the even neighbour
    "Selu": same(_selu, 6, 22),
    "Shrink": same(_shrink, 9),
    "Sigmoid": same(unary(sigmoid), 6, 13),
    "Sign": same(unary(np.sign), 9, 13),
    "Sin": same(unary(np.sin), 7, 22),
    "Sinh": same(unary(np.sinh), 9, 22),
    "Softplus": same(unary(softplus), 1, 22),
    "Softsign": same(unary(_softsign), 1, 22),
    "Sqrt": same(unary(np.sqrt), 6, 13),
    "SwiGLU": same(_swiglu, 28),
    "Swish": same(_swish, 24),
    "Tan": same(unary(np.tan), 7, 22),
    "Tanh": same(unary(np.tanh), 6, 13),
    "ThresholdedRelu": same(_thresholded, 10, 22),
}
