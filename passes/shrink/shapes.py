"""Rules for reshapes and transpositions, and for who asks for a shape."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.shrink.axes import Axes, rank, static_size
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.rule import Keep, replace_input, wall

Moves = list[tuple[int, int, int, int]]  # axis before, axis after, repeat each, tile all


def _sizes(value: ir.Value | None) -> list[int | None] | None:
    if value is None or rank(value) is None:
        return None
    return [static_size(value, axis) for axis in range(rank(value) or 0)]


def moves(node: ir.Node) -> Moves | None:
    """How each axis survives a reshape: (before, after, repeat, tile); None if it is not known.

    Dimensions before and after fall into groups of equal product. An axis alone in its group
    passes. One that is merged with others, rows of a flattened map, appears with every index
    repeated for the axes behind it, tiled for those before it. Split axes are not in the list.
    One dynamic dimension on each side, the batch, is taken as the same when all others agree in
    number of elements: then it must be.
    """
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if before is None or after is None:
        return None
    if before.count(None) > 1 or before.count(None) != after.count(None):
        return None
    if math.prod(d for d in before if d is not None) != math.prod(
        d for d in after if d is not None
    ):
        return None
    found: Moves = []
    for left, right in _groups(before, after):
        wide = [axis for axis in right if after[axis] != 1]
        if len(wide) != 1:
            continue  # split, or nothing but ones
        for position, axis in enumerate(left):
            size = [before[a] or 0 for a in left]
            repeat, tile = math.prod(size[position + 1 :]), math.prod(size[:position])
            if before[axis] is None:
                repeat = tile = 1
            found.append((axis, wide[0], repeat, tile))
    return found


def _groups(before: list[int | None], after: list[int | None]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes with the same number of elements before and after; -1 stands for dynamic."""
    groups = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + 1, j + 1
        while left and right and _count(before, left) != _count(after, right):
            if _count(before, left) < _count(after, right) and i < len(before):
                left, i = [*left, i], i + 1
            elif j < len(after):
                right, j = [*right, j], j + 1
            elif i < len(before):
                left, i = [*left, i], i + 1
            else:
                break
        groups.append((left, right))
    return groups


def _count(sizes: list[int | None], axes: list[int]) -> float:
    # a dynamic size is a prime-like irrational factor: it equals nothing but itself
    return math.prod(math.pi if sizes[a] is None else float(sizes[a] or 0) for a in axes)


def couple_reshape(node: ir.Node, axes: Axes) -> None:
    """Flattened channels are cut as blocks of features; what is split stays whole."""
    source, result, found = node.inputs[0], node.outputs[0], moves(node)
    rewritable = node.op_type != "Reshape" or constant_array(node.inputs[1]) is not None
    if source is None or found is None or not rewritable:
        wall(node, axes)
        return
    for axis in range(rank(result) or 0):
        sources = [move for move in found if move[1] == axis]
        cuttable = [m for m in sources if not axes.is_pinned(axes.of(source, m[0])).all()]
        if len(cuttable) == 1 and _whole(source, sources):
            before, _, repeat, tile = cuttable[0]
            axes.assign(result, axis, np.tile(np.repeat(axes.of(source, before), repeat), tile))
        else:
            axes.pin_axis(result, axis)
            cuttable = []
        for before, *_ in sources:
            if not cuttable or before != cuttable[0][0]:
                axes.pin_axis(source, before, f"{node.op_type} ({node.name})")
    for axis in set(range(rank(source) or 0)) - {before for before, *_ in found}:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")


def _whole(source: ir.Value, sources: Moves) -> bool:
    """Dynamic axes may pass alone, never merged with others."""
    return len(sources) == 1 or all(static_size(source, axis) is not None for axis, *_ in sources)


def reshape_constants(node: ir.Node, facts: Facts) -> None:
    """Constants follow their channel."""
    source = node.inputs[0]
    for before, after, repeat, tile in moves(node) or []:
        known = facts.of(source, before) if source is not None else None
        if known is not None and not np.isnan(known).all():
            facts.learn(node.outputs[0], after, np.tile(np.repeat(known, repeat), tile))


def edit_reshape(node: ir.Node, keep: Keep) -> None:
    """The target shape names fewer features."""
    if node.op_type != "Reshape":
        return
    shape = constant_array(node.inputs[1])
    assert shape is not None
    target = shape.astype(np.int64).copy()
    for axis in range(len(target)):
        mask = keep.of(node.outputs[0], axis)
        if mask is not None and target[axis] > 0:
            target[axis] = int(mask.sum())
    if (target != shape).any():
        replace_input(node, 1, target, "shape")


def couple_transpose(node: ir.Node, axes: Axes) -> None:
    """Axes change places."""
    source, order = node.inputs[0], _order(node)
    if source is None or order is None:
        wall(node, axes)
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


def couple_shape(node: ir.Node, axes: Axes) -> None:
    """Who asks for the length of an axis sees it being cut: the axes asked for stay whole."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None:
        return
    first = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", width)
    asked = list(range(width))[first:end]
    gathers = [use.node for use in node.outputs[0].uses()]
    if (
        gathers
        and not node.outputs[0].is_graph_output()
        and all(g.op_type == "Gather" and constant_array(g.inputs[1]) is not None for g in gathers)
    ):
        indices = [np.asarray(constant_array(g.inputs[1])).reshape(-1) for g in gathers]
        asked = [asked[int(i)] for array in indices for i in array]
    for axis in asked:
        axes.pin_axis(source, axis, f"Shape ({node.name})")
