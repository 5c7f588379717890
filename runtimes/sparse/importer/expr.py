"""Functions of single elements as expressions: built, joined, made simpler, turned into code.

``rebuild`` makes equal parts of an expression one object, so that they are computed once. Leaves
are numbers or tensors (any object; compared by identity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunedeploy.runtimes.sparse.importer.operations import run_code
from prunedeploy.runtimes.sparse.plan.steps import Instr


@dataclass(frozen=True, eq=False)
class Expr:
    """``op`` applied to ``operands``; a leaf has op "tensor" or "number" and its ``leaf``."""

    op: str
    operands: tuple[Expr, ...] = ()
    numbers: tuple[float, ...] = ()
    leaf: Any = None

    @property
    def number(self) -> float | None:
        """The constant this is, or None."""
        return float(self.leaf) if self.op == "number" else None


def number(value: float) -> Expr:
    """A constant, as float32 holds it."""
    return Expr("number", leaf=float(np.float32(value)))


def tensor(leaf: Any) -> Expr:
    """The element of a tensor."""
    return Expr("tensor", leaf=leaf)


def leaves(expr: Expr) -> list[Any]:
    """The tensors that occur, each once, in order of occurrence."""
    found: dict[int, Any] = {}
    for part in parts(expr):
        if part.op == "tensor":
            found.setdefault(id(part.leaf), part.leaf)
    return list(found.values())


def parts(expr: Expr) -> list[Expr]:
    """Every distinct sub-expression, operands before what they are operands of."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        part, done = stack.pop()
        if done:
            order.append(part)
        elif id(part) not in seen:
            seen.add(id(part))
            stack.append((part, True))
            stack.extend((operand, False) for operand in reversed(part.operands))
    return order


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """``expr`` with ``change`` applied to every part, from the leaves up; equal parts joined."""
    known: dict[Any, Expr] = {}
    new: dict[int, Expr] = {}
    for part in parts(expr):
        operands = tuple(new[id(operand)] for operand in part.operands)
        moved = part if operands == part.operands else Expr(part.op, operands, part.numbers)
        changed = change(moved)
        new[id(part)] = known.setdefault(_key(changed), changed)
    return new[id(expr)]


def _key(expr: Expr) -> Any:
    if expr.op == "number":
        return ("number", repr(expr.leaf))
    if expr.op == "tensor":
        return ("tensor", id(expr.leaf))
    return (expr.op, tuple(map(id, expr.operands)), expr.numbers)


def substitute(expr: Expr, table: Mapping[int, Expr]) -> Expr:
    """Tensors replaced by expressions; ``table`` is by the tensor's ``id``."""
    return rebuild(
        expr, lambda part: table.get(id(part.leaf), part) if part.op == "tensor" else part
    )


def length(expr: Expr) -> int:
    """How many instructions it takes."""
    return sum(1 for part in parts(expr) if part.op not in ("tensor", "number"))


def code(expr: Expr) -> tuple[list[Any], tuple[float, ...], tuple[Instr, ...]]:
    """The leaves, constants and instructions of a ``plan.Map``."""
    found = parts(expr)
    tensors = leaves(expr)
    place: dict[int, int] = {}
    constants: list[float] = []
    for part in found:
        if part.op == "tensor":
            place[id(part)] = next(i for i, leaf in enumerate(tensors) if leaf is part.leaf)
        elif part.op == "number":
            place[id(part)] = len(tensors) + len(constants)
            constants.append(part.leaf)
    base = len(tensors) + len(constants)
    instructions: list[Instr] = []
    for part in found:
        if id(part) not in place:
            place[id(part)] = base + len(instructions)
            operands = tuple(place[id(operand)] for operand in part.operands)
            instructions.append(Instr(part.op, operands, part.numbers))
    if not instructions:
        instructions.append(Instr("identity", (place[id(expr)],)))
    return tensors, tuple(constants), tuple(instructions)


# -- simpler forms ---------------------------------------------------------------------------------


def simplify(expr: Expr) -> Expr:
    """Constants computed, neutral operations dropped, known functions recognised."""
    return rebuild(expr, _simpler)


def _simpler(expr: Expr) -> Expr:
    for rule in (_fold, _neutral, _power, _relu, *_KNOWN):
        found = rule(expr)
        if found is not None:
            return found
    return expr


def _fold(expr: Expr) -> Expr | None:
    if not expr.operands or any(operand.op != "number" for operand in expr.operands):
        return None
    positions = tuple(range(len(expr.operands)))
    instr = Instr(expr.op, positions, expr.numbers)
    return number(float(run_code([instr], [o.leaf for o in expr.operands], np.float32)))


def _neutral(expr: Expr) -> Expr | None:
    """x * 1, x / 1, x + 0, x - 0; x / c as a product where c is a power of two."""
    if expr.op == "identity":
        return expr.operands[0]
    if len(expr.operands) != 2:
        return None
    left, right = expr.operands
    if expr.op in ("mul", "div") and right.number == 1.0:
        return left
    if expr.op == "mul" and left.number == 1.0:
        return right
    if expr.op in ("add", "sub") and right.number == 0.0 and not math.copysign(1, right.leaf) < 0:
        return left
    if expr.op == "div" and right.number and math.frexp(abs(right.number))[0] == 0.5:
        return Expr("mul", (left, number(1.0 / right.number)))
    return None


def _power(expr: Expr) -> Expr | None:
    """Powers that are cheaper said otherwise."""
    if expr.op != "pow" or expr.operands[1].number is None:
        return None
    base, exponent = expr.operands[0], expr.operands[1].number
    square = Expr("mul", (base, base))
    made = {
        1.0: base,
        2.0: square,
        3.0: Expr("mul", (square, base)),
        4.0: Expr("mul", (square, square)),
        0.5: Expr("sqrt", (base,)),
        -1.0: Expr("reciprocal", (base,)),
    }
    return made.get(exponent)


def _relu(expr: Expr) -> Expr | None:
    """max(x, 0), clip(x, 0, inf)."""
    if expr.op == "max":
        for x, other in (expr.operands, expr.operands[::-1]):
            if other.number == 0.0:
                return Expr("relu", (x,))
    if expr.op == "clip" and expr.numbers == (0.0, math.inf):
        return Expr("relu", expr.operands)
    return None


def near(value: float | None, wanted: float) -> bool:
    """Whether a constant is ``wanted`` to the precision that exporters write it with."""
    return value is not None and math.isclose(value, wanted, rel_tol=1e-6)


def _pair(expr: Expr, op: str) -> list[tuple[Expr, Expr]]:
    """Both orders of the operands of a commutative ``op``."""
    if expr.op != op:
        return []
    left, right = expr.operands
    return [(left, right), (right, left)]


def scaled(expr: Expr) -> tuple[float, list[Expr]]:
    """A product as its constant and its other factors; x / c counts as x * (1 / c)."""
    if expr.number is not None:
        return expr.number, []
    if expr.op == "mul":
        (a, left), (b, right) = map(scaled, expr.operands)
        return a * b, left + right
    if expr.op == "div" and expr.operands[1].number:
        a, left = scaled(expr.operands[0])
        return a / expr.operands[1].number, left
    if expr.op == "neg":
        a, left = scaled(expr.operands[0])
        return -a, left
    return 1.0, [expr]


def _hardsigmoid(expr: Expr) -> Expr | None:
    """clip(x + 3, 0, 6) / 6."""
    scale, factors = scaled(expr)
    if not near(scale, 1 / 6) or len(factors) != 1:
        return None
    inner = factors[0]
    if inner.op == "clip" and inner.numbers == (0.0, 6.0):
        for x, three in _pair(inner.operands[0], "add"):
            if three.number == 3.0:
                return Expr("hardsigmoid", (x,), (1 / 6, 0.5))
    return None


def _is(expr: Expr, op: str, x: Expr) -> bool:
    return expr.op == op and expr.operands[0] is x


def _is_hardswish_gate(expr: Expr, x: Expr) -> bool:
    if expr.op != "hardsigmoid" or expr.operands[0] is not x:
        return False
    alpha, beta = expr.numbers
    return near(alpha, 1 / 6) and beta == 0.5


def _gated(expr: Expr) -> Expr | None:
    """x * hardsigmoid(x), x * sigmoid(x), x * tanh(softplus(x)), x * clip(x + 3, 0, 6) / 6."""
    scale, factors = scaled(expr)
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        if scale == 1.0 and _is_hardswish_gate(gate, x):
            return Expr("hardswish", (x,))
        if scale == 1.0 and _is(gate, "sigmoid", x):
            return Expr("silu", (x,))
        if scale == 1.0 and gate.op == "tanh" and _is(gate.operands[0], "softplus", x):
            return Expr("mish", (x,))
        found = _hardsigmoid(Expr("mul", (gate, number(scale))))
        if found is not None and _is_hardswish_gate(found, x):
            return Expr("hardswish", (x,))
    return None


def _gelu(expr: Expr) -> Expr | None:
    """x * 0.5 * (1 + erf(x / sqrt 2)), and with tanh(sqrt(2 / pi) * (x + 0.044715 x^3))."""
    scale, factors = scaled(expr)
    if not near(scale, 0.5) or len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        for one, curve in _pair(gate, "add"):
            if one.number != 1.0 or curve.op not in ("erf", "tanh"):
                continue
            if curve.op == "erf" and _is_product(curve.operands[0], math.sqrt(0.5), [x]):
                return Expr("gelu", (x,))
            if curve.op == "tanh" and _is_tanh_argument(curve.operands[0], x):
                return Expr("gelu_tanh", (x,))
    return None


def _is_product(expr: Expr, scale: float, factors: list[Expr]) -> bool:
    found, parts = scaled(expr)
    return near(found, scale) and [id(p) for p in parts] == [id(f) for f in factors]


def _is_tanh_argument(expr: Expr, x: Expr) -> bool:
    scale, factors = scaled(expr)
    if not near(scale, math.sqrt(2 / math.pi)):
        return False
    if len(factors) == 1:
        return any(
            first is x and _is_product(cubic, 0.044715, [x, x, x])
            for first, cubic in _pair(factors[0], "add")
        )
    # x * (1 + 0.044715 x^2)
    return any(
        first is x and one.number == 1.0 and _is_product(square, 0.044715, [x, x])
        for first, sum_ in (factors, factors[::-1])
        for one, square in _pair(sum_, "add")
    )


_KNOWN = (_gelu, _gated, _hardsigmoid)
