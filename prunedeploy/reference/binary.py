"""Operators of two inputs and more that treat each element by itself, broadcast as in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Kernel, Numbers, Table, integer, same, text


def binary(function: Callable[[Numbers, Numbers], Any]) -> Kernel:
    """The kernel of a function of two arrays."""
    return lambda _, a, b: function(a, b)


def _equal_shapes(kernel: Kernel) -> Kernel:
    """Refuse broadcasting before opset 8 by operators of any number of inputs."""

    def run(node: ir.Node, *inputs: Numbers) -> Any:
        if len({x.shape for x in inputs}) > 1:
            raise ValueError("inputs of several shapes, which this version does not broadcast")
        return kernel(node, *inputs)

    return run


def divide(a: Numbers, b: Numbers) -> Any:
    """Divide; integers are truncated towards zero, not floored as in NumPy."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    down = a // b
    return down + ((a % b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _power(x: Numbers, y: Numbers) -> Any:
    """Raise to a power in the type of the base; integer powers of integers are exact."""
    if x.dtype.kind in "iu":
        if y.dtype.kind in "iu" and not (y < 0).any():
            return np.power(x, y.astype(x.dtype))
        return np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
    wide = np.result_type(x.dtype, np.float64) if y.dtype.kind in "iu" else x.dtype
    return np.power(x.astype(wide), y.astype(wide)).astype(x.dtype)


def _mod(node: ir.Node, a: Numbers, b: Numbers) -> Numbers:
    """fmod 0: the sign of the divisor, for integers; fmod 1: that of the dividend."""
    if integer(node, "fmod", 0):
        return np.fmod(a, b)
    if a.dtype.kind not in "iu":
        raise ValueError("floats have a remainder with fmod 1 only")
    return np.mod(a, b)


def _mod_28(node: ir.Node, a: Numbers, b: Numbers) -> Numbers:
    return np.fmod(a, b) if integer(node, "fmod", 0) else np.mod(a, b)


def _shift(node: ir.Node, x: Numbers, by: Numbers) -> Numbers:
    """Bits beyond either end are gone; a signed number keeps its sign to the right."""
    direction, bits = text(node, "direction", ""), x.dtype.itemsize * 8
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction {direction!r} is not known")
    far = (by < 0) | (by >= bits)
    by = np.where(far, 0, by).astype(x.dtype)
    if direction == "LEFT":
        return np.where(far, x.dtype.type(0), np.left_shift(x, by))
    gone = np.where(x < 0, x.dtype.type(-1), x.dtype.type(0)) if x.dtype.kind == "i" else 0
    return np.where(far, gone, np.right_shift(x, by)).astype(x.dtype)


def _variadic(function: Callable[[Numbers, Numbers], Any]) -> Kernel:
    return lambda _, *inputs: reduce(function, inputs)


def _mean(_: ir.Node, *inputs: Numbers) -> Numbers:
    total: Numbers = reduce(np.add, inputs)
    return total / len(inputs)


def _where(_: ir.Node, condition: Numbers, x: Numbers, y: Numbers) -> Numbers:
    return np.where(condition, x, y)


def _arithmetic(function: Callable[[Numbers, Numbers], Any], *versions: int) -> Any:
    return same(binary(function), *versions)


_sum, _max, _min = _variadic(np.add), _variadic(np.maximum), _variadic(np.minimum)

TABLE: Table = {
    "Add": _arithmetic(np.add, 7, 13, 14),
    "And": _arithmetic(np.logical_and, 7),
    "BitShift": same(_shift, 11, 28),
    "BitwiseAnd": _arithmetic(np.bitwise_and, 18),
    "BitwiseOr": _arithmetic(np.bitwise_or, 18),
    "BitwiseXor": _arithmetic(np.bitwise_xor, 18),
    "Div": _arithmetic(divide, 7, 13, 14),
    "Equal": _arithmetic(np.equal, 7, 11, 13, 19),
    "Greater": _arithmetic(np.greater, 7, 9, 13),
    "GreaterOrEqual": _arithmetic(np.greater_equal, 12, 16),
    "Less": _arithmetic(np.less, 7, 9, 13),
    "LessOrEqual": _arithmetic(np.less_equal, 12, 16),
    "Max": same(_equal_shapes(_max), 6) | same(_max, 8, 12, 13),
    "Mean": same(_equal_shapes(_mean), 6) | same(_mean, 8, 13),
    "Min": same(_equal_shapes(_min), 6) | same(_min, 8, 12, 13),
    "Mod": same(_mod, 10, 13) | same(_mod_28, 28),
    "Mul": _arithmetic(np.multiply, 7, 13, 14),
    "Or": _arithmetic(np.logical_or, 7),
    "Pow": _arithmetic(_power, 7, 12, 13, 15),
    "Sub": _arithmetic(np.subtract, 7, 13, 14),
    "Sum": same(_equal_shapes(_sum), 6) | same(_sum, 8, 13),
    "Where": same(_where, 9, 16),
    "Xor": _arithmetic(np.logical_xor, 7),
}
