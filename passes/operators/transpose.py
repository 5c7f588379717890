"""Transpose: axes change places."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.value_numbers import ValueNumbers
from prunedeploy.passes.operators.operator import AxisOrder, Indices, Operator, opaque


def couple_transpose(node: ir.Node, axes: Axes) -> None:
    """Axes change places."""
    source, order = node.inputs[0], _order(node)
    if source is None or order is None:
        opaque(node, axes)
        return
    for position, axis in enumerate(order):
        axes.assign(node.outputs[0], position, axes.of(source, axis))


def transpose_constants(node: ir.Node, facts: Facts) -> None:
    """Constants change places with their axes."""
    source = node.inputs[0]
    for position, axis in enumerate(_order(node) or []):
        if source is not None:
            facts.learn(node.outputs[0], position, facts.of(source, axis))


def _order(node: ir.Node) -> list[int] | None:
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    if width is None:
        return None
    return list(node.attributes.get_ints("perm", list(reversed(range(width)))))


def number_transpose(node: ir.Node, known: ValueNumbers) -> None:
    """Slices keep their identity where the axes change places in the same way."""
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None:
        return
    order = tuple(node.attributes.get_ints("perm", list(reversed(range(width)))))
    for position, axis in enumerate(order):
        if known.followed(result, position):
            where = known.one(("Transpose", order, position))
            known.learn(result, position, [(where, key) for key in known.of(source, axis).tolist()])


def reorder_transpose(node: ir.Node, at: AxisOrder, _: Indices) -> list[AxisOrder] | None:
    """The order passes to where the axis goes, or to where it comes from."""
    (value, axis, order), source, result = at, node.inputs[0], node.outputs[0]
    width = rank(value)
    if source is None or width is None:
        return None
    perm = list(node.attributes.get_ints("perm", list(reversed(range(width)))))
    after = perm.index(axis) if value is source else axis
    return [(source, perm[after], order), (result, after, order)]


OPERATORS = (
    Operator(
        "Transpose",
        couple=couple_transpose,
        constants=transpose_constants,
        moves_elements=True,
        number=number_transpose,
        reorder=reorder_transpose,
    ),
)
