"""Functions of one element in PTX: activations, and the instructions of elementwise steps.

NaN goes through every function, as it does in ONNX Runtime. Truth values are 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunedeploy.runtimes.sparse.gpu import series
from prunedeploy.runtimes.sparse.gpu.instructions import (
    Function,
    bounded,
    choose,
    copysign,
    extreme,
    fma,
    instruction,
    mul,
    sub,
)
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.plan.steps import Activation

ONE, ZERO = f32(1), f32(0)


def _leaky(entry: Entry, value: str, slope: float) -> str:
    return _prelu(entry, value, f32(slope))


def _prelu(entry: Entry, value: str, slope: str) -> str:
    return choose(entry, "lt", value, ZERO, mul(entry, value, slope), value)


def _elu(entry: Entry, value: str, alpha: float) -> str:
    below = bounded(entry, value, -math.inf, 0.0)
    negative = mul(entry, series.expm1_nonpositive(entry, below), f32(alpha))
    return choose(entry, "lt", value, ZERO, negative, value)


def _hardsigmoid(entry: Entry, value: str, alpha: float = 1 / 6, beta: float = 0.5) -> str:
    return bounded(entry, fma(entry, value, f32(alpha), f32(beta)), 0.0, 1.0)


def _times(function: Function) -> Function:
    def apply(entry: Entry, value: str) -> str:
        return mul(entry, value, function(entry, value))

    return apply


def _sign(entry: Entry, value: str) -> str:
    one = copysign(entry, ONE, value)
    size = instruction("abs.f32")(entry, value)
    return choose(entry, "gt", size, ZERO, one, value)  # 0 and NaN stay


def _compared(relation: str) -> Function:
    return lambda entry, a, b: choose(entry, relation, a, b, ONE, ZERO)


def _not(entry: Entry, value: str) -> str:
    return choose(entry, "eq", value, ZERO, ONE, ZERO)


def _and(entry: Entry, a: str, b: str) -> str:
    return choose(entry, "eq", a, ZERO, ZERO, choose(entry, "eq", b, ZERO, ZERO, ONE))


def _or(entry: Entry, a: str, b: str) -> str:
    return choose(entry, "eq", a, ZERO, choose(entry, "eq", b, ZERO, ZERO, ONE), ONE)


def _where(entry: Entry, condition: str, a: str, b: str) -> str:
    return choose(entry, "eq", condition, ZERO, b, a)


FUNCTIONS: dict[str, Function] = {
    "identity": lambda _, value: value,
    "neg": instruction("neg.f32"),
    "abs": instruction("abs.f32"),
    "sqrt": instruction("sqrt.rn.f32"),
    "reciprocal": instruction("rcp.rn.f32"),
    "floor": instruction("cvt.rmi.f32.f32"),
    "ceil": instruction("cvt.rpi.f32.f32"),
    "round": instruction("cvt.rni.f32.f32"),
    "sign": _sign,
    "add": instruction("add.rn.f32"),
    "sub": sub,
    "mul": mul,
    "div": instruction("div.rn.f32"),
    "max": extreme("gt"),
    "min": extreme("lt"),
    "relu": lambda entry, value: bounded(entry, value, 0.0, math.inf),
    "clip": bounded,
    "leakyrelu": _leaky,
    "prelu": _prelu,
    "elu": _elu,
    "exp": series.exp,
    "log": series.log,
    "tanh": series.tanh,
    "erf": series.erf,
    "sigmoid": series.sigmoid,
    "silu": _times(series.sigmoid),
    "gelu": series.gelu,
    "gelu_tanh": series.gelu_tanh,
    "softplus": series.softplus,
    "mish": series.mish,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _times(_hardsigmoid),
    "not": _not,
    "and": _and,
    "or": _or,
    "where": _where,
    "equal": _compared("eq"),
    "less": _compared("lt"),
    "greater": _compared("gt"),
    "lessorequal": _compared("le"),
    "greaterorequal": _compared("ge"),
}


def activate(entry: Entry, activation: Activation, value: str) -> str:
    """The register with ``activation`` of the f32 register ``value``."""
    return FUNCTIONS[activation.op](entry, value, *activation.numbers)


def unknown(names: Sequence[str]) -> str | None:
    """The first function that no kernel computes; None where all are known."""
    return next((name for name in names if name not in FUNCTIONS), None)
