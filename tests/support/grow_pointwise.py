"""Generators of elementwise operators.

Operators that are not defined everywhere, or grow without bound, are fed through something that
keeps them tame, so that outputs stay finite and well conditioned.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from random_graph import RandomGraph, Value

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


def tame(net: RandomGraph, value: Value, steps: tuple[str, ...] = ("Tanh",)) -> Value:
    """``value`` through unary operators."""
    name = value.name
    for step in steps:
        name = net.one(step, name)
    return Value(name, value.shape)


def any_rank(net: RandomGraph) -> Value:
    return net.layered(net.choose.choice([4, 4, 3, 2]))


def unary(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    if op == "Acosh":
        source = tame(net, source)
    source = tame(net, source, BEFORE.get(op, ()))
    attributes = ATTRIBUTES.get(op, lambda _: {})(net.choose)
    return net.add(net.one(op, source, **attributes), source.shape)


def operand(net: RandomGraph, like: Value) -> Value:
    """Something that broadcasts with ``like``: of its shape, or shorter, computed or constant."""
    form = net.choose.randrange(5)
    if form == 0:
        return like
    if form == 1:
        same = [value for value in net.values if value.shape == like.shape]
        return net.choose.choice(same)
    if form == 2 and len(like.shape) == 4:
        pooled = net.add(net.one("GlobalAveragePool", like), (*like.shape[:2], 1, 1))
        return net.layered(width=like.channels, like=pooled)
    if form == 3:
        return net.layered(width=like.channels, like=like)
    shape = [1] * len(like.shape)
    shape[like.axis] = net.choose.choice([1, like.channels])
    array = net.numbers.standard_normal(shape)
    flat = array.reshape(-1)
    flat[net.subset(len(flat))] = net.choose.choice([0.0, 0.5])
    if like.axis == len(shape) - 1 and net.choose.random() < 0.5:
        array = flat
    return Value(net.const(array), array.shape)


def binary(net: RandomGraph, op: str) -> Value:
    left = any_rank(net)
    right = operand(net, left)
    if op == "Div":
        right = tame(net, right, ("Sigmoid",))
    if op == "Pow":
        left, right = tame(net, left, ("Sigmoid",)), tame(net, right)
    if op in ("Mod", "Mul"):
        left = tame(net, left)
    if op == "Mod":
        name = net.one(op, left, tame(net, right, ("Sigmoid",)), fmod=1)
    elif op in ("Sub", "Add", "Mul", "Max", "Min") and net.choose.random() < 0.3:
        name = net.one(op, right, left)
    else:
        name = net.one(op, left, right)
    shape = tuple(max(sizes) for sizes in zip(left.shape, _full(right, left), strict=True))
    return net.add(name, shape)


def _full(value: Value, like: Value) -> tuple[int, ...]:
    return (1,) * (len(like.shape) - len(value.shape)) + value.shape


def variadic(net: RandomGraph, op: str) -> Value:
    first = any_rank(net)
    others = [operand(net, first) for _ in range(net.choose.randint(0, 2))]
    return net.add(net.one(op, first, *others), first.shape)


def clip(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    low, high = net.choose.choice([(0.0, 6.0), (-0.2, 0.3), (0.1, 0.4)])
    name = net.one(op, source, net.const(np.array(low)), net.const(np.array(high)))
    return net.add(name, source.shape)


def cast_like(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    return net.add(net.one(op, source, net.const(np.zeros(1))), source.shape)


def prelu(net: RandomGraph, op: str) -> Value:
    source = net.layered(4)
    shape = net.choose.choice([(source.channels, 1, 1), (1,), (1, source.channels, 1, 1)])
    slope = net.const(net.numbers.random(shape))
    return net.add(net.one(op, source, slope), source.shape)


def comparison(net: RandomGraph, op: str) -> Value:
    """A condition that chooses between two values."""
    left = any_rank(net)
    right = net.layered(width=left.channels, like=left)
    condition = net.one(op, left, right)
    if net.choose.random() < 0.5:
        return net.add(net.one("Cast", condition, to=11), left.shape)
    return net.add(net.one("Where", condition, right, operand(net, left)), left.shape)


def logical(net: RandomGraph, op: str) -> Value:
    left = any_rank(net)
    sides = [net.one("Greater", left, net.const(np.array(0.1 * k))) for k in (1, 2)]
    name = net.one(op, *sides[: 1 if op == "Not" else 2])
    return net.add(net.one("Cast", name, to=11), left.shape)


def is_something(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    return net.add(net.one("Cast", net.one(op, source), to=11), source.shape)


def bit_shift(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    whole = net.one("Cast", net.one("Abs", tame(net, source)), to=2)
    shifted = net.one(op, whole, net.const(np.array([2], np.uint8)), direction="LEFT")
    return net.add(net.one("Cast", shifted, to=11), source.shape)


def where(net: RandomGraph, op: str) -> Value:
    source = any_rank(net)
    condition = net.one("Greater", net.layered(like=source, width=1), operand_scalar(net))
    return net.add(net.one(op, condition, source, operand(net, source)), source.shape)


def operand_scalar(net: RandomGraph) -> str:
    return net.const(np.array(0.05))
