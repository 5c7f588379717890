"""Growers of elementwise operators.

Operators that are not defined everywhere, or grow without bound, are fed through something that
keeps them tame, so that outputs stay finite and well conditioned.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from garden import Garden, Value

BEFORE = {
    **dict.fromkeys(("Exp", "Sinh", "Cosh", "Tan", "Celu", "Elu", "Selu"), ("Tanh",)),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), ("Tanh", "Sin")),
    **dict.fromkeys(("Log", "Sqrt"), ("Sigmoid",)),
    "Acosh": ("Exp", "Cosh"),  # of a Tanh: from 1.07 on
    "Reciprocal": ("Sigmoid",),
}
ATTRIBUTES: dict[str, Callable[[random.Random], dict[str, object]]] = {
    "LeakyRelu": lambda c: {"alpha": c.choice([0.1, 0.5])},
    "HardSigmoid": lambda c: {"alpha": c.choice([0.2, 0.5]), "beta": 0.4},
    "Gelu": lambda c: {"approximate": c.choice(["none", "tanh"])},
    "ThresholdedRelu": lambda c: {"alpha": c.choice([0.2, 0.0])},
    "Shrink": lambda c: {"lambd": 0.3, "bias": c.choice([0.0, 0.1])},
    "Cast": lambda _: {"to": 11},
}


def tame(garden: Garden, value: Value, steps: tuple[str, ...] = ("Tanh",)) -> Value:
    """``value`` through unary operators."""
    name = value.name
    for step in steps:
        name = garden.one(step, name)
    return Value(name, value.shape)


def any_rank(garden: Garden) -> Value:
    return garden.layered(garden.choose.choice([4, 4, 3, 2]))


def unary(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    if op == "Acosh":
        source = tame(garden, source)
    source = tame(garden, source, BEFORE.get(op, ()))
    attributes = ATTRIBUTES.get(op, lambda _: {})(garden.choose)
    return garden.add(garden.one(op, source, **attributes), source.shape)


def operand(garden: Garden, like: Value) -> Value:
    """Something that broadcasts with ``like``: of its shape, or shorter, computed or constant."""
    form = garden.choose.randrange(5)
    if form == 0:
        return like
    if form == 1:
        same = [value for value in garden.values if value.shape == like.shape]
        return garden.choose.choice(same)
    if form == 2 and len(like.shape) == 4:
        pooled = garden.add(garden.one("GlobalAveragePool", like), (*like.shape[:2], 1, 1))
        return garden.layered(width=like.channels, like=pooled)
    if form == 3:
        return garden.layered(width=like.channels, like=like)
    shape = [1] * len(like.shape)
    shape[like.axis] = garden.choose.choice([1, like.channels])
    array = garden.numbers.standard_normal(shape)
    flat = array.reshape(-1)
    flat[garden.subset(len(flat))] = garden.choose.choice([0.0, 0.5])
    if like.axis == len(shape) - 1 and garden.choose.random() < 0.5:
        array = flat
    return Value(garden.const(array), array.shape)


def binary(garden: Garden, op: str) -> Value:
    left = any_rank(garden)
    right = operand(garden, left)
    if op == "Div":
        right = tame(garden, right, ("Sigmoid",))
    if op == "Pow":
        left, right = tame(garden, left, ("Sigmoid",)), tame(garden, right)
    if op in ("Mod", "Mul"):
        left = tame(garden, left)
    if op == "Mod":
        name = garden.one(op, left, tame(garden, right, ("Sigmoid",)), fmod=1)
    elif op in ("Sub", "Add", "Mul", "Max", "Min") and garden.choose.random() < 0.3:
        name = garden.one(op, right, left)
    else:
        name = garden.one(op, left, right)
    shape = tuple(max(sizes) for sizes in zip(left.shape, _full(right, left), strict=True))
    return garden.add(name, shape)


def _full(value: Value, like: Value) -> tuple[int, ...]:
    return (1,) * (len(like.shape) - len(value.shape)) + value.shape


def variadic(garden: Garden, op: str) -> Value:
    first = any_rank(garden)
    others = [operand(garden, first) for _ in range(garden.choose.randint(0, 2))]
    return garden.add(garden.one(op, first, *others), first.shape)


def clip(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    low, high = garden.choose.choice([(0.0, 6.0), (-0.2, 0.3), (0.1, 0.4)])
    name = garden.one(op, source, garden.const(np.array(low)), garden.const(np.array(high)))
    return garden.add(name, source.shape)


def cast_like(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    return garden.add(garden.one(op, source, garden.const(np.zeros(1))), source.shape)


def prelu(garden: Garden, op: str) -> Value:
    source = garden.layered(4)
    shape = garden.choose.choice([(source.channels, 1, 1), (1,), (1, source.channels, 1, 1)])
    slope = garden.const(garden.numbers.random(shape))
    return garden.add(garden.one(op, source, slope), source.shape)


def comparison(garden: Garden, op: str) -> Value:
    """A condition that chooses between two values."""
    left = any_rank(garden)
    right = garden.layered(width=left.channels, like=left)
    condition = garden.one(op, left, right)
    if garden.choose.random() < 0.5:
        return garden.add(garden.one("Cast", condition, to=11), left.shape)
    return garden.add(garden.one("Where", condition, right, operand(garden, left)), left.shape)


def logical(garden: Garden, op: str) -> Value:
    left = any_rank(garden)
    sides = [garden.one("Greater", left, garden.const(np.array(0.1 * k))) for k in (1, 2)]
    name = garden.one(op, *sides[: 1 if op == "Not" else 2])
    return garden.add(garden.one("Cast", name, to=11), left.shape)


def is_something(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    return garden.add(garden.one("Cast", garden.one(op, source), to=11), source.shape)


def bit_shift(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    whole = garden.one("Cast", garden.one("Abs", tame(garden, source)), to=2)
    shifted = garden.one(op, whole, garden.const(np.array([2], np.uint8)), direction="LEFT")
    return garden.add(garden.one("Cast", shifted, to=11), source.shape)


def where(garden: Garden, op: str) -> Value:
    source = any_rank(garden)
    condition = garden.one("Greater", garden.layered(like=source, width=1), operand_scalar(garden))
    return garden.add(garden.one(op, condition, source, operand(garden, source)), source.shape)


def operand_scalar(garden: Garden) -> str:
    return garden.const(np.array(0.05))
