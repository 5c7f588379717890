"""Rules for operators that work along some axes and do the same for every index of the others.

One row an operator: which axes pass, as sets that are cut together; every other axis of what it
touches stays whole. ``keeps`` says what becomes of a constant: it stays, or only zero does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.operators.operator import Operator, opaque

# (value, axis) pairs that share their indices; the first is in the first input
Ties = list[list[tuple[ir.Value, int]]]


@dataclass(frozen=True)
class Sweep:
    """``data`` are the inputs that the first result takes its numbers from."""

    ties: Callable[[ir.Node], Ties | None]
    keeps: Literal["any", "zero"] | None = None
    data: tuple[int, ...] = (0,)


def _but(node: ir.Node, worked: set[int]) -> Ties | None:
    """All axes pass to results of the same rank but those worked along."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    results = [value for value in node.outputs if value.name]
    if source is None or width is None or any(rank(value) != width for value in results):
        return None
    left = set(range(width)) - {axis % width for axis in worked}
    return [[(source, axis), *((value, axis) for value in results)] for axis in sorted(left)]


def _by_attribute(default: int) -> Callable[[ir.Node], Ties | None]:
    return lambda node: _but(node, {node.attributes.get_int("axis", default)})


def _cumulated(node: ir.Node) -> Ties | None:
    axis = constant_array(node.inputs[1])
    return None if axis is None else _but(node, {int(axis.reshape(-1)[0])})


def _extreme(node: ir.Node) -> Ties | None:
    """ArgMax, ArgMin: the axis becomes one index, or goes."""
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or not width or rank(result) is None:
        return None
    axis = node.attributes.get_int("axis", 0) % width
    left = [position for position in range(width) if position != axis]
    if node.attributes.get_int("keepdims", True):
        return [[(source, position), (result, position)] for position in left]
    return [[(source, before), (result, after)] for after, before in enumerate(left)]


def _reversed(node: ir.Node) -> Ties | None:
    attributes = node.attributes
    return _but(node, {attributes.get_int("time_axis", 0), attributes.get_int("batch_axis", 1)})


def _triangle(node: ir.Node) -> Ties | None:
    return _but(node, {-1, -2})


def _pooled(node: ir.Node) -> Ties | None:
    source = node.inputs[0]
    return _but(node, set(range(2, rank(source) or 0))) if source is not None else None


def _sampled(node: ir.Node) -> Ties | None:
    """GridSample: channels pass, and each image has its own grid."""
    source, grid, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or grid is None or rank(source) is None or rank(result) != rank(source):
        return None
    return [[(source, 0), (grid, 0), (result, 0)], [(source, 1), (result, 1)]]


def _regions(node: ir.Node) -> Ties | None:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) != 4 or rank(result) != 4:
        return None
    return [[(source, 1), (result, 1)]]


def _picked(node: ir.Node) -> Ties | None:
    """GatherElements: along the axis the result has the indices' length, elsewhere all agree."""
    source, indices, result = node.inputs[0], node.inputs[1], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or indices is None or not width or rank(result) != width:
        return None
    along = node.attributes.get_int("axis", 0) % width
    others: Ties = [
        [(source, axis), (indices, axis), (result, axis)] for axis in range(width) if axis != along
    ]
    return [*others, [(indices, along), (result, along)]]


def _scattered(node: ir.Node) -> Ties | None:
    """ScatterElements: axes pass where indices and updates are as long as what they change."""
    source, indices, updates = node.inputs[:3]
    width = rank(source) if source is not None else None
    if source is None or indices is None or updates is None or not width:
        return None
    along, values = node.attributes.get_int("axis", 0) % width, (source, indices, updates)
    if any(rank(value) != width for value in (*values, node.outputs[0])):
        return None
    return [
        [(value, axis) for value in (*values, node.outputs[0])]
        for axis in range(width)
        if axis != along
    ]


def _scattered_nd(node: ir.Node) -> Ties | None:
    """ScatterND: the axes behind those that the indices name."""
    source, indices, updates = node.inputs[:3]
    if source is None or indices is None or updates is None:
        return None
    width, depth = rank(source), rank(indices)
    if width is None or not depth or rank(updates) is None:
        return None
    named = static_size(indices, depth - 1)
    if named is None:
        return None
    return [
        [(source, axis), (updates, axis - named + depth - 1), (node.outputs[0], axis)]
        for axis in range(named, width)
    ]


def couple_sweep(sweep: Sweep, node: ir.Node, axes: Axes) -> None:
    """Axes that pass share their labels; the rest is pinned."""
    ties = sweep.ties(node)
    if ties is None:
        opaque(node, axes)
        return
    passing = set()
    for pairs in ties:
        sizes = {static_size(value, axis) for value, axis in pairs}
        if len(sizes) != 1 or None in sizes:
            continue
        passing |= set(pairs)
        known = [pair for pair in pairs if axes.has(*pair)] or pairs[:1]
        labels = axes.of(*known[0])
        for value, axis in pairs:
            axes.assign(value, axis, labels)
    for each in (*node.inputs, *node.outputs):
        for axis in range((rank(each) or 0) if each is not None else 0):
            if each is not None and (each, axis) not in passing:
                axes.pin_axis(each, axis, f"{node.op_type} ({node.name})")


def sweep_constants(sweep: Sweep, node: ir.Node, facts: Facts) -> None:
    """A constant that all data share along an axis that passes."""
    result = node.outputs[0]
    reducing = node.attributes.get_string("reduction", "none") != "none"
    for pairs in sweep.ties(node) or []:
        after = [axis for value, axis in pairs if value is result]
        sources = [(v, axis) for v, axis in pairs if v in [node.inputs[i] for i in sweep.data]]
        if not after or len(sources) < len(sweep.data):
            continue
        size = static_size(result, after[0])
        constants = [facts.aligned(value, axis, size) for value, axis in sources] if size else []
        if not constants or any(each is None for each in constants):
            continue
        first = np.asarray(constants[0])
        same = np.all([np.asarray(each) == first for each in constants], axis=0)
        if sweep.keeps == "zero" or reducing:
            same &= first == 0
        facts.learn(result, after[0], np.where(same, first, np.nan))


def _sweeping(name: str, sweep: Sweep) -> Operator:
    constants = None if sweep.keeps is None else partial(sweep_constants, sweep)
    return Operator(name, couple=partial(couple_sweep, sweep), constants=constants)


OPERATORS = (
    _sweeping("ArgMax", Sweep(_extreme)),  # positions say nothing of what is there
    _sweeping("ArgMin", Sweep(_extreme)),
    _sweeping("CumSum", Sweep(_cumulated, "zero")),
    _sweeping("GatherElements", Sweep(_picked, "any")),
    _sweeping("GlobalLpPool", Sweep(_pooled, "zero")),
    _sweeping("GridSample", Sweep(_sampled, "zero")),
    _sweeping("LpPool", Sweep(_pooled, "zero")),
    _sweeping("ReverseSequence", Sweep(_reversed, "any")),
    _sweeping("RoiAlign", Sweep(_regions, "zero")),
    _sweeping("ScatterElements", Sweep(_scattered, "any", (0, 2))),
    _sweeping("ScatterND", Sweep(_scattered_nd, "any", (0, 2))),
    _sweeping("TopK", Sweep(_by_attribute(-1), "any")),
    _sweeping("Trilu", Sweep(_triangle, "zero")),
)
