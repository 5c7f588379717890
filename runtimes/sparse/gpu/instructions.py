"""Single instructions on float32 registers, and the few short sequences that all functions share.

``max.f32`` and ``min.f32`` of PTX take the number where one operand is NaN; what has to pass NaN on
compares instead, since comparisons with NaN are false.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32

Function = Callable[..., str]


def instruction(name: str) -> Function:
    """The function that applies one instruction and gives the register of its result."""

    def apply(entry: Entry, *operands: str) -> str:
        result = entry.register("f32")
        entry.add(f"{name} {result}, {', '.join(operands)}")
        return result

    return apply


add = instruction("add.rn.f32")
sub = instruction("sub.rn.f32")
mul = instruction("mul.rn.f32")
fma = instruction("fma.rn.f32")
neg = instruction("neg.f32")
absolute = instruction("abs.f32")
reciprocal = instruction("rcp.rn.f32")
divide = instruction("div.rn.f32")
larger = instruction("max.f32")
smaller = instruction("min.f32")


def polynomial(entry: Entry, x: str, coefficients: Sequence[float]) -> str:
    """The polynomial of ``x`` whose coefficients are given, that of the highest power first."""
    result = f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = fma(entry, result, x, f32(coefficient))
    return result


def choose(entry: Entry, relation: str, a: str, b: str, yes: str, no: str) -> str:
    """``yes`` where ``a`` stands in ``relation`` to ``b``, else ``no``."""
    holds = entry.register("pred")
    entry.add(f"setp.{relation}.f32 {holds}, {a}, {b}")
    result = entry.register("f32")
    entry.add(f"selp.f32 {result}, {yes}, {no}, {holds}")
    return result


def keep_nan(entry: Entry, x: str, result: str) -> str:
    """``result``, but ``x`` where that is NaN."""
    return choose(entry, "nan", x, x, x, result)


def copysign(entry: Entry, size: str, sign: str) -> str:
    """The number of size ``size``, which is not negative, with the sign of ``sign``."""
    one, other = entry.registers("u32", 2)
    result = entry.register("f32")
    entry.add(
        f"mov.b32 {one}, {size}",
        f"mov.b32 {other}, {sign}",
        f"and.b32 {other}, {other}, {0x80000000}",
        f"or.b32 {one}, {one}, {other}",
        f"mov.b32 {result}, {one}",
    )
    return result


def bounded(entry: Entry, value: str, low: float, high: float) -> str:
    """Clamp; NaN stays."""
    result, outside = entry.register("f32"), entry.register("pred")
    entry.add(f"mov.f32 {result}, {value}")
    for relation, bound in (("lt", low), ("gt", high)):
        if math.isfinite(bound):
            entry.add(
                f"setp.{relation}.f32 {outside}, {result}, {f32(bound)}",
                f"@{outside} mov.f32 {result}, {f32(bound)}",
            )
    return result


def extreme(relation: str) -> Function:
    """The function that takes the larger ("gt") or smaller ("lt") of two; NaN where one is NaN."""

    def apply(entry: Entry, a: str, b: str) -> str:
        return keep_nan(entry, a, choose(entry, relation, a, b, a, b))

    return apply
