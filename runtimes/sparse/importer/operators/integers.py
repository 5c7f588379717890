"""Arithmetic of integers, as float32 that has them all: refused where a result may be too large."""

from __future__ import annotations

from collections.abc import Callable

from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import EXACT, UINT8, Tensor, broadcast
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer

# The largest result of operands that are no larger than a and b.
BOUNDS: dict[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, _: a,
    "Mod": lambda _, b: b,
    "Max": max,
    "Min": max,
}


def _quotient(a: Expr, b: Expr) -> Expr:
    """Towards zero. A quotient that is not whole is further from the next than it is rounded."""
    exact = Expr("div", (a, b))
    return Expr("mul", (Expr("sign", (exact,)), Expr("floor", (Expr("abs", (exact,)),))))


def _rest(a: Expr, b: Expr) -> Expr:
    """With the sign of the divisor."""
    whole = Expr("floor", (Expr("div", (a, b)),))
    return Expr("sub", (a, Expr("mul", (b, whole))))


def arithmetic(call: Call) -> Tensor:
    """A function of two integers, of each element."""
    op, (a, b) = call.node.op_type, (call.exact(0), call.exact(1))
    if len(call.inputs) != 2:
        raise call.refuse("only two integers are known")
    if op == "Mod" and call.integer("fmod", 0):
        raise call.refuse("fmod is not known")
    bound = BOUNDS[op](a.bound, b.bound)
    # a remainder is found by way of a product
    if max(bound, a.bound + b.bound if op == "Mod" else 0) >= EXACT:
        raise call.refuse("float32 may round the integers that it gives")
    # float32 does not wrap around as bytes do
    if a.dtype == "uint8" and (op == "Sub" or bound > UINT8):
        raise call.refuse("uint8 may wrap around")
    x, y = map(call.build.operand, (a, b))
    if op in ("Div", "Mod"):
        if b.value is None or not b.value.all():
            raise call.refuse("a divisor may be zero")
        made = _quotient(x, y) if op == "Div" else _rest(x, y)
    else:
        made = Expr(op.lower(), (x, y))
    return call.build.elementwise(made, broadcast(a.shape, b.shape), a.dtype, bound)


def absolute(call: Call) -> Tensor:
    """Neg, Abs and Sign."""
    x = call.exact(0)
    if x.dtype == "uint8" and call.node.op_type == "Neg":
        raise call.refuse("uint8 may wrap around")
    made = Expr(call.node.op_type.lower(), (call.build.operand(x),))
    return call.build.elementwise(made, x.shape, x.dtype, x.bound)


def or_integers(run: Importer) -> Importer:
    """``run`` for all other types."""

    def either(call: Call) -> Tensor | tuple[Tensor, ...]:
        if not call.x.is_integer:
            return run(call)
        return arithmetic(call) if call.node.op_type in BOUNDS else absolute(call)

    return either


TABLE: dict[str, Importer] = {"Mod": arithmetic}
