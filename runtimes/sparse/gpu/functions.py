"""Functions of one element in PTX: activations, and the instructions of elementwise steps.

NaN goes through every function, as it does in ONNX Runtime: ``max`` and ``min`` of PTX would take
the number instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.plan.steps import Activation

Function = Callable[..., str]


def _simple(instruction: str) -> Function:
    def apply(entry: Entry, *operands: str) -> str:
        result = entry.register("f32")
        entry.add(f"{instruction} {result}, {', '.join(operands)}")
        return result

    return apply


def _bounded(entry: Entry, value: str, low: float, high: float) -> str:
    """Clamp; comparisons with NaN are false, so it stays."""
    result, outside = entry.register("f32"), entry.register("pred")
    entry.add(f"mov.f32 {result}, {value}")
    for relation, bound in (("lt", low), ("gt", high)):
        if math.isfinite(bound):
            entry.add(
                f"setp.{relation}.f32 {outside}, {result}, {f32(bound)}",
                f"@{outside} mov.f32 {result}, {f32(bound)}",
            )
    return result


def _extreme(relation: str) -> Function:
    """The larger or smaller of two; NaN where one is NaN."""

    def apply(entry: Entry, a: str, b: str) -> str:
        result, p, q = entry.register("f32"), entry.register("pred"), entry.register("pred")
        entry.add(
            f"setp.{relation}.f32 {p}, {a}, {b}",
            f"selp.f32 {result}, {a}, {b}, {p}",
            f"setp.nan.f32 {q}, {a}, {a}",
            f"@{q} mov.f32 {result}, {a}",
        )
        return result

    return apply


def _leaky(entry: Entry, value: str, slope: float) -> str:
    result, negative = entry.register("f32"), entry.register("pred")
    entry.add(
        f"mov.f32 {result}, {value}",
        f"setp.lt.f32 {negative}, {value}, {f32(0)}",
        f"@{negative} mul.rn.f32 {result}, {value}, {f32(slope)}",
    )
    return result


def _exp(entry: Entry, value: str) -> str:
    """By powers of two: ``x * log2(e)`` in two parts, so that large ``x`` keep their digits."""
    high, low, power, scale, result = entry.registers("f32", 5)
    log2e = f32(math.log2(math.e))
    entry.add(
        f"mul.rn.f32 {high}, {value}, {log2e}",
        f"neg.f32 {scale}, {high}",
        f"fma.rn.f32 {low}, {value}, {log2e}, {scale}",
        f"ex2.approx.f32 {power}, {high}",
        # 2^low is 1 + low * ln(2) to the last digit; infinite values have no low part
        f"mul.rn.f32 {scale}, {low}, {f32(math.log(2))}",
        f"fma.rn.f32 {result}, {power}, {scale}, {power}",
    )
    infinite = entry.register("pred")
    entry.add(
        f"setp.nan.f32 {infinite}, {result}, {result}", f"@{infinite} mov.f32 {result}, {power}"
    )
    return result


def _sigmoid(entry: Entry, value: str) -> str:
    power = _exp(entry, _simple("neg.f32")(entry, value))
    return _simple("rcp.rn.f32")(entry, _simple("add.rn.f32")(entry, power, f32(1)))


def _hardsigmoid(entry: Entry, value: str, alpha: float = 1 / 6, beta: float = 0.5) -> str:
    line = _simple("fma.rn.f32")(entry, value, f32(alpha), f32(beta))
    return _bounded(entry, line, 0.0, 1.0)


def _times(function: Function) -> Function:
    def apply(entry: Entry, value: str) -> str:
        return _simple("mul.rn.f32")(entry, value, function(entry, value))

    return apply


FUNCTIONS: dict[str, Function] = {
    "identity": lambda _, value: value,
    "neg": _simple("neg.f32"),
    "abs": _simple("abs.f32"),
    "sqrt": _simple("sqrt.rn.f32"),
    "reciprocal": _simple("rcp.rn.f32"),
    "add": _simple("add.rn.f32"),
    "sub": _simple("sub.rn.f32"),
    "mul": _simple("mul.rn.f32"),
    "div": _simple("div.rn.f32"),
    "max": _extreme("gt"),
    "min": _extreme("lt"),
    "relu": lambda entry, value: _bounded(entry, value, 0.0, math.inf),
    "clip": _bounded,
    "leakyrelu": _leaky,
    "exp": _exp,
    "sigmoid": _sigmoid,
    "silu": _times(_sigmoid),
    "hardsigmoid": _hardsigmoid,
    "hardswish": _times(_hardsigmoid),
}


def activate(entry: Entry, activation: Activation, value: str) -> str:
    """The register with ``activation`` of the f32 register ``value``."""
    return FUNCTIONS[activation.op](entry, value, *activation.numbers)


def unknown(names: Sequence[str]) -> str | None:
    """The first function that no kernel computes; None where all are known."""
    return next((name for name in names if name not in FUNCTIONS), None)
