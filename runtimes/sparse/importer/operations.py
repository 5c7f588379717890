"""The elementwise functions of plans in NumPy; the importer folds constants with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan.steps import Instr

Values = np.ndarray[Any, Any]


def _erf(x: Values) -> Values:
    return np.array([math.erf(v) for v in x.reshape(-1)], x.dtype).reshape(x.shape)


def _sigmoid(x: Values) -> Values:
    small = np.exp(-np.abs(x))
    positive: Values = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return positive


def _softplus(x: Values) -> Values:
    value: Values = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return value


def _gelu_tanh(x: Values) -> Values:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    value: Values = 0.5 * x * (1 + np.tanh(inner))
    return value


def _hardsigmoid(x: Values, alpha: float = 1 / 6, beta: float = 0.5) -> Values:
    return np.clip(alpha * x + beta, 0, 1)


SAME = (  # as NumPy calls it
    *("abs", "exp", "log", "sqrt", "tanh", "floor", "ceil", "sign", "sin", "cos"),
    *("equal", "less", "greater"),
)
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in SAME},
    "identity": lambda x: x,
    "neg": np.negative,
    "relu": lambda x: np.maximum(x, 0),
    "clip": lambda x, low, high: np.clip(x, low, high),
    "leakyrelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": _sigmoid,
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda x: x * _hardsigmoid(x),
    "silu": lambda x: x * _sigmoid(x),
    "erf": _erf,
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "round": np.rint,
    "not": lambda x: x == 0,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "lessorequal": np.less_equal,
    "greaterorequal": np.greater_equal,
    "and": lambda a, b: (a != 0) & (b != 0),
    "or": lambda a, b: (a != 0) | (b != 0),
    "where": lambda condition, a, b: np.where(condition != 0, a, b),
}


def run_code(code: Sequence[Instr], values: Sequence[Any], dtype: Any) -> Array:
    """The last result of ``code`` on ``values``: the inputs, then the constants."""
    results = [np.asarray(value, dtype) for value in values]
    with np.errstate(all="ignore"):
        for instr in code:
            operands = [results[i] for i in instr.operands]
            value = OPERATIONS[instr.op](*operands, *instr.numbers)
            results.append(np.asarray(value, dtype))
    return results[-1]
