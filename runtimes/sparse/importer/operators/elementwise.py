"""Functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from prunedeploy.runtimes.sparse.importer.expr import Expr, number
from prunedeploy.runtimes.sparse.importer.graph import EXACT, Tensor, broadcast
from prunedeploy.runtimes.sparse.importer.importer import TYPES, Call, Importer
from prunedeploy.runtimes.sparse.importer.operators import integers

SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # of the operator's definition

# operators that are one function of ``plan`` of one or two float32 tensors
PLAIN = {
    "Neg": "neg", "Abs": "abs", "Relu": "relu", "Exp": "exp", "Log": "log", "Sqrt": "sqrt",
    "Reciprocal": "reciprocal", "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf",
    "Softplus": "softplus", "Mish": "mish", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sign": "sign", "Sin": "sin", "Cos": "cos", "HardSwish": "hardswish",
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "PRelu": "prelu",
}  # fmt: skip
COMPARISONS = {
    "Equal": "equal", "Less": "less", "Greater": "greater", "LessOrEqual": "lessorequal",
    "GreaterOrEqual": "greaterorequal", "And": "and", "Or": "or",
}  # fmt: skip


def _map(call: Call, expr: Expr, dtype: str = "float32") -> Tensor:
    shapes = [x.shape for x in call.inputs if x is not None]
    return call.build.elementwise(expr, broadcast(*shapes), dtype)


def _operand(call: Call, index: int = 0) -> Expr:
    return call.build.operand(call.real(index))


def _plain(op: str) -> Importer:
    def run(call: Call) -> Tensor:
        if call.node.attributes.get("broadcast") is not None:
            raise call.refuse("the broadcasting of opset 6 and before is not known")
        return _map(call, Expr(op, tuple(_operand(call, i) for i in range(len(call.inputs)))))

    return run


def _with(op: str, *numbers: tuple[str, float]) -> Importer:
    """A function with numbers from attributes."""

    def run(call: Call) -> Tensor:
        values = tuple(call.number(*each) for each in numbers)
        return _map(call, Expr(op, (_operand(call),), values))

    return run


def _variadic(op: str) -> Importer:
    def run(call: Call) -> Tensor:
        made = _operand(call)
        for index in range(1, len(call.inputs)):
            made = Expr(op, (made, _operand(call, index)))
        if call.node.op_type == "Mean":
            made = Expr("div", (made, number(len(call.inputs))))
        return _map(call, made)

    return run


def _of(build: Callable[[Call, Expr], Expr]) -> Importer:
    """A function written with several of ``plan``."""

    def run(call: Call) -> Tensor:
        return _map(call, build(call, _operand(call)))

    return run


def _celu(call: Call, x: Expr) -> Expr:
    alpha = number(call.number("alpha", 1.0))
    return Expr("mul", (Expr("elu", (Expr("div", (x, alpha)),), (1.0,)), alpha))


def _selu(call: Call, x: Expr) -> Expr:
    alpha, gamma = call.number("alpha", SELU[0]), call.number("gamma", SELU[1])
    return Expr("mul", (Expr("elu", (x,), (alpha,)), number(gamma)))


def _softsign(_: Call, x: Expr) -> Expr:
    return Expr("div", (x, Expr("add", (Expr("abs", (x,)), number(1.0)))))


def _swish(call: Call, x: Expr) -> Expr:
    gate = Expr("mul", (x, number(call.number("alpha", 1.0))))
    return Expr("mul", (x, Expr("sigmoid", (gate,))))


def _thresholded(call: Call, x: Expr) -> Expr:
    above = Expr("greater", (x, number(call.number("alpha", 1.0))))
    return Expr("where", (above, x, number(0.0)))


def _gelu(call: Call, x: Expr) -> Expr:
    return Expr("gelu_tanh" if call.string("approximate", "none") == "tanh" else "gelu", (x,))


def pow_(call: Call) -> Tensor:
    """The exponent may be of any type where it is a constant."""
    exponent = call.tensor(1)
    if exponent.value is None:
        exponent = call.real(1)
    return _map(call, Expr("pow", (_operand(call), call.build.operand(exponent))))


def clip(call: Call) -> Tensor:
    """Bounds from attributes, constants, or computed."""
    x = _operand(call)
    if call.opset < 11:
        bounds = (call.number("min", -math.inf), call.number("max", math.inf))
        return call.build.elementwise(Expr("clip", (x,), bounds), call.x.shape)
    low, high = call.optional(1), call.optional(2)
    if all(bound is None or bound.value is not None for bound in (low, high)):
        first, last = (
            float(np.asarray(bound.value).reshape(())) if bound is not None else other
            for bound, other in ((low, -math.inf), (high, math.inf))
        )
        # ONNX takes the upper bound where the lower one is above it
        return call.build.elementwise(Expr("clip", (x,), (min(first, last), last)), call.x.shape)
    if low is not None:
        x = Expr("max", (x, _operand(call, 1)))
    if high is not None:
        x = Expr("min", (x, _operand(call, 2)))
    return call.build.elementwise(x, call.x.shape)


def compare(call: Call) -> Tensor:
    """Integers are compared as float32: exact where one side is a small enough constant."""
    tensors = [call.tensor(0), call.tensor(1)]
    if any(x.is_integer and x.bound >= EXACT for x in tensors):
        known = [x.value for x in tensors if x.value is not None]
        if not known or not all(np.abs(array.astype(np.float64)).max() < EXACT for array in known):
            raise call.refuse("it compares integers that float32 may round")
    made = Expr(COMPARISONS[call.node.op_type], tuple(map(call.build.operand, tensors)))
    return _map(call, made, "bool")


def not_(call: Call) -> Tensor:
    """Import Not, of truth values."""
    return _map(call, Expr("not", (call.build.operand(call.x),)), "bool")


def where(call: Call) -> Tensor:
    """The condition may be computed."""
    condition, *choices = call.tensor(0), call.exact(1), call.exact(2)
    made = Expr("where", tuple(map(call.build.operand, (condition, *choices))))
    shape = broadcast(*(x.shape for x in (condition, *choices)))
    bound = max(x.bound for x in choices)
    return call.build.elementwise(made, shape, choices[0].dtype, bound)


def is_nan(call: Call) -> Tensor:
    """What is not equal to itself."""
    x = _operand(call)
    return _map(call, Expr("not", (Expr("equal", (x, x)),)), "bool")


def is_inf(call: Call) -> Tensor:
    """Infinite, of either sign or of one."""
    x, signs = _operand(call), []
    for name, value in (("detect_positive", math.inf), ("detect_negative", -math.inf)):
        if call.integer(name, 1):
            signs.append(Expr("equal", (x, number(value))))
    if not signs:
        raise call.refuse("it detects nothing")
    return _map(call, signs[0] if len(signs) == 1 else Expr("or", tuple(signs)), "bool")


def xor(call: Call) -> Tensor:
    """Of truth values, which are 0 and 1."""
    sides = [Expr("not", (call.build.operand(call.tensor(i)),)) for i in (0, 1)]
    return _map(call, Expr("not", (Expr("equal", (sides[0], sides[1])),)), "bool")


def cast(call: Call) -> Tensor:
    """Between integers and truth values and float32, where float32 carries the result."""
    x, wanted = call.x, TYPES.get(ir.DataType(call.integer("to", 0)))
    if wanted is None:
        raise call.refuse(f"a cast to {ir.DataType(call.integer('to', 0)).name} is not known")
    if wanted == x.dtype:
        return x
    if wanted in ("int32", "int64") and x.is_integer:
        if x.bound >= EXACT:  # an index, say, which is read as it is; no output may be made of it
            return x
        return call.build.elementwise(
            Expr("identity", (call.build.operand(x),)), x.shape, wanted, x.bound
        )
    if wanted == "float32":
        return call.build.elementwise(Expr("identity", (call.build.operand(x),)), x.shape)
    if wanted == "bool":
        zero = Expr("equal", (call.build.operand(x), number(0.0)))
        return call.build.elementwise(Expr("not", (zero,)), x.shape, "bool")
    if x.dtype == "bool":
        made = Expr("identity", (call.build.operand(x),))
        return call.build.elementwise(made, x.shape, wanted, 1.0)
    raise call.refuse("float32 does not carry all integers that it may give")


def _or_integers(name: str, run: Importer) -> Importer:
    return integers.or_integers(run) if name in INTEGERS else run


INTEGERS = (*integers.BOUNDS, "Neg", "Abs", "Sign")
TABLE: dict[str, Importer] = {
    **{name: _or_integers(name, _plain(op)) for name, op in PLAIN.items()},
    **integers.TABLE,
    **dict.fromkeys(COMPARISONS, compare),
    "LeakyRelu": _with("leakyrelu", ("alpha", 0.01)),
    "Elu": _with("elu", ("alpha", 1.0)),
    "HardSigmoid": _with("hardsigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "Max": _or_integers("Max", _variadic("max")),
    "Min": _or_integers("Min", _variadic("min")),
    "Sum": _variadic("add"),
    "Mean": _variadic("add"),
    "Celu": _of(_celu),
    "Selu": _of(_selu),
    "Softsign": _of(_softsign),
    "Swish": _of(_swish),
    "ThresholdedRelu": _of(_thresholded),
    "Gelu": _of(_gelu),
    "Pow": pow_,
    "Clip": clip,
    "Not": not_,
    "IsNaN": is_nan,
    "IsInf": is_inf,
    "Xor": xor,
    "Where": where,
    "Cast": cast,
}
