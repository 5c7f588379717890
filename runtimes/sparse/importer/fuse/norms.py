"""Normalisations written out in single operators, recognised; scales behind them taken in.

    x / sqrt(mean(x^2) + epsilon)                                   RMS normalisation
    d / sqrt(mean(d^2) + epsilon), d = x - mean(x)                  layer normalisation

times a scale, plus a bias. Group normalisation is written as an instance normalisation of groups
flattened: it is brought back to the tensor's own axes, so that nothing is flattened.
"""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.fuse import chains
from prunedeploy.runtimes.sparse.importer.graph import (
    ElementwiseOp,
    Graph,
    NormOp,
    Op,
    ReduceOp,
    ReshapeOp,
    Tensor,
)

Producers = dict[Tensor, Op]


def recognise(graph: Graph) -> None:
    """Replace each by one operator; elementwise operators have been merged and simplified."""
    producers = graph.producers()
    ops: list[Op] = []
    for op in graph.ops:
        recognised = _normalisation(op, producers) if isinstance(op, ElementwiseOp) else None
        if isinstance(op, ElementwiseOp) and recognised is not None:
            norm, quotient = recognised
            ops.append(norm)
            producers[norm.output] = norm
            op.expr = _replace(op.expr, quotient, e.tensor(norm.output))
            op.inputs = e.leaves(op.expr)
        ops.append(op)
    graph.ops = ops
    _unflatten(graph)
    chains.straighten(graph)
    _take_in(graph)


def _replace(expr: Expr, old: Expr, new: Expr) -> Expr:
    if expr is old:
        return new
    operands = tuple(_replace(operand, old, new) for operand in expr.operands)
    return expr if operands == expr.operands else Expr(expr.op, operands, expr.numbers)


def _normalisation(op: ElementwiseOp, producers: Producers) -> tuple[NormOp, Expr] | None:
    """The norm inside ``op``, and the quotient it stands for."""
    stack = [op.expr]
    while stack:
        part = stack.pop()
        stack.extend(part.operands)
        for top, root in _quotients(part, producers):
            match = _match(op, top, root, producers)
            if match is not None:
                return match, part
    return None


def _quotients(expr: Expr, producers: Producers) -> list[tuple[Expr, Expr]]:
    """(x, square root) where ``expr`` is x over the root."""
    quotients = []
    if expr.op == "div":
        root = _computed(expr.operands[1], producers)
        quotients = [(expr.operands[0], root.operands[0])] if root.op == "sqrt" else []
    elif expr.op == "mul":
        for top, other in (expr.operands, expr.operands[::-1]):
            inverse = _computed(other, producers)
            if inverse.op == "reciprocal":
                root = _computed(inverse.operands[0], producers)
                quotients += [(top, root.operands[0])] if root.op == "sqrt" else []
            elif inverse.op == "div" and inverse.operands[0].number == 1.0:
                root = _computed(inverse.operands[1], producers)
                quotients += [(top, root.operands[0])] if root.op == "sqrt" else []
            elif inverse.op == "pow" and inverse.operands[1].number == -0.5:
                quotients.append((top, inverse.operands[0]))
    return quotients


def _computed(expr: Expr, producers: Producers) -> Expr:
    """The expression that a tensor holds, where an elementwise operator computes it."""
    producer = producers.get(expr.leaf) if expr.op == "tensor" else None
    return producer.expr if isinstance(producer, ElementwiseOp) else expr


def _match(op: ElementwiseOp, top: Expr, inside: Expr, producers: Producers) -> NormOp | None:
    inside = _computed(inside, producers)
    if inside.op != "add" or top.op not in ("tensor", "sub"):
        return None
    for mean, epsilon in (inside.operands, inside.operands[::-1]):
        variance = producers.get(mean.leaf) if mean.op == "tensor" else None
        if epsilon.number is None or not isinstance(variance, ReduceOp) or variance.kind != "mean":
            continue
        square = producers.get(variance.inputs[0])
        if not isinstance(square, ElementwiseOp) or square.expr.op != "mul":
            continue
        left, right = square.expr.operands
        if left is not right or not _same(left, top):
            continue
        source = _centred(top, variance, producers)
        centre = source is not None
        if source is None:
            if top.op != "tensor":
                continue
            source = top.leaf
        if source.shape != op.output.shape or source.value is not None:
            continue
        y = Tensor(source.shape)
        return NormOp(op.name, [source], y, variance.axes, epsilon.number, None, None, centre)
    return None


def _same(one: Expr, other: Expr) -> bool:
    if one.op != other.op or len(one.operands) != len(other.operands):
        return False
    if one.op in ("tensor", "number"):
        return bool(one.leaf is other.leaf or (one.op == "number" and one.leaf == other.leaf))
    return all(map(_same, one.operands, other.operands))


def _centred(top: Expr, variance: ReduceOp, producers: Producers) -> Tensor | None:
    """x, where ``top`` is x - mean(x) over the same axes."""
    difference = _computed(top, producers)
    if difference.op != "sub" or any(part.op != "tensor" for part in difference.operands):
        return None
    x, mean = (part.leaf for part in difference.operands)
    reduced = producers.get(mean)
    is_mean = isinstance(reduced, ReduceOp) and reduced.kind == "mean"
    if not is_mean or not isinstance(reduced, ReduceOp) or reduced.inputs[0] is not x:
        return None
    return x if reduced.axes == variance.axes and isinstance(x, Tensor) else None


# -- groups flattened ------------------------------------------------------------------------------


def _unflatten(graph: Graph) -> None:
    """A norm of a reshaped tensor, on the axes that both shapes are made of."""
    producers = graph.producers()
    ops: list[Op] = []
    for op in graph.ops:
        before = producers.get(op.inputs[0]) if isinstance(op, NormOp) else None
        fine = None
        if isinstance(op, NormOp) and isinstance(before, ReshapeOp):
            fine = _refined(before.inputs[0].shape, op.output.shape)
        if not isinstance(op, NormOp) or before is None or fine is None:
            ops.append(op)
            continue
        shape = tuple(n for group in fine for n in group)
        if shape == op.output.shape:
            ops.append(op)
            continue
        x, y = Tensor(shape), Tensor(shape)
        axes: list[int] = []
        position = 0
        for axis, group in enumerate(fine):
            if axis in op.axes:
                axes += range(position, position + len(group))
            position += len(group)
        ops.append(ReshapeOp(op.name, [before.inputs[0]], x))
        scale, bias = (_split(array, fine) for array in (op.scale, op.bias))
        ops.append(NormOp(op.name, [x], y, tuple(axes), op.epsilon, scale, bias, op.centre))
        ops.append(ReshapeOp(op.name, [y], op.output))
    graph.ops = ops


def _refined(one: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """For each axis of ``other`` the factors such that the axes of ``one`` are runs of them."""
    left = [n for n in one if n > 1]
    result = []
    for size in other:
        group, rest = [], size
        while rest > 1:
            if not left:
                return None
            common = math.gcd(rest, left[0])
            if common not in (rest, left[0]):
                return None
            group.append(common)
            rest //= common
            left[0] //= common
            if left[0] == 1:
                left.pop(0)
        result.append(tuple(group) or (1,))
    return result


def _split(array: Array | None, fine: list[tuple[int, ...]]) -> Array | None:
    if array is None:
        return None
    shape: list[int] = []
    for n, group in zip(array.shape, fine, strict=True):
        shape += [1] * len(group) if n == 1 else group
    return array.reshape(shape)


# -- scale and bias --------------------------------------------------------------------------------


def _take_in(graph: Graph) -> None:
    """Take in constants that scale and shift a norm's result in its only, elementwise, reader."""
    users, producers = graph.users(), graph.producers()
    gone = []
    for op in graph.ops:
        if not isinstance(op, ElementwiseOp):
            continue
        computed = [tensor for tensor in op.inputs if tensor.value is None]
        if len(computed) != 1 or computed[0].shape != op.output.shape:
            continue
        back = producers.get(computed[0])
        chain = [back] if isinstance(back, ReshapeOp) else []
        norm = producers.get(back.inputs[0]) if isinstance(back, ReshapeOp) else back
        if not isinstance(norm, NormOp):
            continue
        values = [computed[0], norm.output]
        if any(len(users[value]) > 1 or value in graph.outputs for value in values):
            continue
        if not _absorb(norm, op, computed[0]):
            continue
        if op.expr.leaf is computed[0]:  # the operator computed nothing else
            last = chain[0] if chain else norm
            last.output = op.output
            producers[op.output] = last
            gone.append(op)
    graph.remove(gone)


def _absorb(norm: NormOp, op: ElementwiseOp, x: Tensor) -> bool:
    """The largest x * a + b, x * a or x + b inside ``op``, where x occurs nowhere else."""
    for part in reversed(e.parts(op.expr)):
        inner, bias = _operand(part, "add", x)
        scaled, scale = _operand(inner, "mul", x)
        if scaled.leaf is not x or (bias is None and scale is None):
            continue
        rest = _replace(op.expr, part, Expr("number", leaf=0.0))
        if x in e.leaves(rest) or not _scale(norm, op, scale, bias):
            return False
        op.expr = _replace(op.expr, part, e.tensor(x))
        op.inputs = e.leaves(op.expr)
        return True
    return False


def _scale(norm: NormOp, op: ElementwiseOp, scale: Array | None, bias: Array | None) -> bool:
    """Take a factor and a shift, of the shape of ``op``'s result or less, into the norm."""
    fine = _refined(norm.output.shape, op.output.shape)
    if fine is None or tuple(n for group in fine for n in group) != norm.output.shape:
        return False
    front = (1,) * op.output.rank
    a, b = (
        None if v is None else _split(v.reshape((*front, *v.shape)[-op.output.rank :]), fine)
        for v in (scale, bias)
    )
    one, zero = np.float32(1), np.float32(0)
    if a is not None:
        norm.scale = np.multiply(one if norm.scale is None else norm.scale, a, dtype=np.float32)
        norm.bias = None if norm.bias is None else np.multiply(norm.bias, a, dtype=np.float32)
    if b is not None:
        norm.bias = np.add(zero if norm.bias is None else norm.bias, b, dtype=np.float32)
    return True


def _operand(expr: Expr, op: str, x: Tensor) -> tuple[Expr, Array | None]:
    """``expr`` without its constant operand, and that constant."""
    if expr.op != op:
        return expr, None
    for inner, known in (expr.operands, expr.operands[::-1]):
        if known.number is not None:
            return inner, np.asarray(known.number, np.float32)
        if known.op == "tensor" and known.leaf is not x and known.leaf.value is not None:
            return inner, np.asarray(known.leaf.value, np.float32)
    return expr, None
