"""Changes of the type of elements."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Numbers, Table, integer, same, text

FLOAT8 = (
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
)


def _parsed(x: Numbers, target: ir.DataType) -> Numbers:
    kind = target.numpy()
    words = [w.decode() if isinstance(w, bytes) else str(w) for w in x.reshape(-1).tolist()]
    if kind.kind in "iu":
        numbers = np.array([int(w) for w in words], kind)
    elif kind.kind == "b":
        raise ValueError("text does not become a truth value")
    else:
        numbers = np.array([float(w) for w in words], np.float64).astype(kind)
    return numbers.reshape(x.shape)


def saturated(x: Numbers, target: ir.DataType) -> Any:
    """Cut to what the type holds, infinity included; NaN stays."""
    kind = target.numpy()
    largest = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
    wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    return np.clip(wide, -largest, largest).astype(kind)


def _exponent(x: Numbers, up: str, saturate: bool) -> Numbers:
    """float8e8m0: a power of two, of 8 bits of exponent; 255 is NaN."""
    bits = x.astype(np.float32).view(np.uint32)
    exponent = (bits >> 23) & 0xFF
    mantissa = bits & 0x7FFFFF
    if up == "nearest":
        more = mantissa >= 1 << 22
    elif up == "up":
        more = mantissa > 0
    elif up == "down":
        more = np.zeros(mantissa.shape, bool)
    else:
        raise ValueError(f"round_mode {up!r} is not known")
    nan = np.isnan(x)
    rounded = exponent + (more & (exponent < 254 + (not saturate)))
    if saturate:
        rounded = np.minimum(rounded, 254)
    rounded = np.where(nan, 255, rounded).astype(np.uint8)
    return rounded.view(ml_dtypes.float8_e8m0fnu)


def cast_to(x: Numbers, target: ir.DataType, saturate: bool = True, up: str = "up") -> Any:
    """The array with elements of type ``target``.

    Args:
        x: any array; text as objects or bytes.
        target: the type asked for.
        saturate: floats of 8 bits are cut to their largest number.
        up: how numbers between two powers of two are rounded to float8e8m0.
    """
    if target == ir.DataType.STRING:
        if x.dtype.kind in "OUS":
            return x
        if x.dtype.kind not in "iub":
            raise ValueError(f"how {x.dtype} is written as text, ONNX leaves to the runtime")
        return np.array([str(int(e)) for e in x.reshape(-1)], object).reshape(x.shape)
    if x.dtype.kind in "OUS":
        return _parsed(x, target)
    if target in FLOAT8 and saturate:
        return saturated(x, target)
    if target == ir.DataType.FLOAT8E8M0:
        return _exponent(x, up, saturate)
    if target == ir.DataType.BOOL:
        return np.asarray(x.astype(np.float32) != 0 if x.dtype.kind == "V" else x != 0)
    kind = target.numpy()
    with np.errstate(invalid="ignore"):
        if kind.kind in "iu" or "int" in kind.name:
            if x.dtype.kind not in "iub":  # towards zero; what is out of range is not defined
                x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
            if kind.itemsize == 1 and kind.kind not in "iu":  # four bits and two: wrap around
                return x.astype(np.int64).astype(kind)
        return x.astype(kind)


def _cast(node: ir.Node, x: Numbers) -> Any:
    return cast_to(x, ir.DataType(integer(node, "to", 0)))


def _cast_saturating(node: ir.Node, x: Numbers) -> Any:
    """``saturate`` came with opset 19, ``round_mode`` with 24."""
    target, saturate = ir.DataType(integer(node, "to", 0)), bool(integer(node, "saturate", 1))
    return cast_to(x, target, saturate, text(node, "round_mode", "up"))


def _cast_like(node: ir.Node, x: Numbers, like: Numbers) -> Any:
    words = like.dtype.kind in "OUS"
    target = ir.DataType.STRING if words else ir.DataType.from_numpy(like.dtype)
    saturate = bool(integer(node, "saturate", 1))
    return cast_to(x, target, saturate, text(node, "round_mode", "up"))


TABLE: Table = {
    "Cast": same(_cast, 6, 9, 13) | same(_cast_saturating, 19, 21, 23, 24, 25, 28),
    "CastLike": same(_cast_like, 15, 19, 21, 23, 24, 25),
}
