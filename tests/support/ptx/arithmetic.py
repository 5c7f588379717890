"""The arithmetic of PTX on whole arrays of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]

BITS = {
    "pred": 1,
    "b8": 8,
    "u8": 8,
    "u16": 16,
    "b16": 16,
    "u32": 32,
    "s32": 32,
    "b32": 32,
    "f32": 32,
    "u64": 64,
    "s64": 64,
    "b64": 64,
}
DTYPES: dict[str, Any] = {
    "pred": np.bool_,
    "b8": np.uint8,
    "u8": np.uint8,
    "u16": np.uint16,
    "b16": np.uint16,
    "u32": np.uint32,
    "s32": np.int32,
    "b32": np.uint32,
    "f32": np.float32,
    "u64": np.uint64,
    "s64": np.int64,
    "b64": np.uint64,
}
SMALLEST = float(np.finfo(np.float32).tiny)


def fma32(a: Values, b: Values, c: Values) -> Values:
    """``a * b + c``, rounded once to float32.

    The product of two float32 numbers is exact in float64, their sum with a third is rounded there,
    and rounding that again differs from rounding once only where it lies in the middle between two
    float32 numbers, or is denormal. There the float64 sum is rounded to odd first (Boldo and
    Melquiond, "Emulation of FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to
    Odd", 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.asarray(product + c)
    bits = total.view(np.int64)
    if ((bits & 0x1FFFFFFF) == 0x10000000).any() or (np.abs(total) < SMALLEST).any():
        total = _to_odd(product, np.asarray(c, np.float64), total)
    result: Values = total.astype(np.float32)
    return result


def _to_odd(product: Values, c: Values, total: Values) -> Values:
    product, c, total = np.broadcast_arrays(product, c, total)
    rest = total - product
    error = (product - (total - rest)) + (c - rest)  # exact: Knuth's TwoSum
    bits = total.copy().view(np.int64)
    fix = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    outward = (error > 0) == (total > 0)
    odd: Values = np.where(fix, np.where(outward, bits | 1, (bits - 1) | 1), bits).view(np.float64)
    return odd


def compare(relation: str, a: Values, b: Values) -> Values:
    """The result of ``setp``; comparisons with NaN are false, those that end in u true."""
    if relation == "nan":
        result: Values = np.isnan(a) | np.isnan(b)
        return result
    functions = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    if relation[2:] == "u":
        return np.asarray(functions[relation[:2]](a, b) | np.isnan(a) | np.isnan(b))
    known = functions[relation](a, b)
    if relation == "ne" and a.dtype.kind == "f":
        return np.asarray(known & ~(np.isnan(a) | np.isnan(b)))
    return np.asarray(known)


def quotient(a: Values, b: Values) -> Values:
    """``div``: towards zero for integers; what NumPy says for floats."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if a.dtype.kind == "u":
        return np.asarray(a // b)
    sign = np.sign(a) * np.sign(b)
    return np.asarray(sign * (np.abs(a) // np.abs(b)))


def convert(op: Sequence[str], value: Values) -> Values:
    """The result of ``cvt``: rounded as the instruction says, and as large as the type allows."""
    to, source = op[-2], op[-1]
    rounding = op[1] if len(op) > 3 else ""
    if source == "f32" and rounding in ROUNDINGS:
        value = ROUNDINGS[rounding](value)
    if source == "f32" and to != "f32":
        limits = np.iinfo(DTYPES[to])
        whole = np.nan_to_num(value.astype(np.float64), nan=0.0)
        inside = np.clip(whole, float(limits.min), float(limits.max))
        largest = whole >= float(limits.max)
        result = np.where(largest, 0, inside).astype(DTYPES[to])
        return np.asarray(np.where(largest, DTYPES[to](limits.max), result))
    return value.astype(DTYPES[to])


ROUNDINGS = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "div": quotient,
}
UNARY = {
    "neg": np.negative,
    "not": np.invert,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rcp": np.reciprocal,
    "ex2": np.exp2,
}
