"""Rules for reshapes and transpositions, and for who asks for a shape."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.shrink.axes import Axes, rank, static_size
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.rule import Keep, replace_input, wall

Scalar = TypeVar("Scalar", bound=np.generic)
Sizes = list[int | None]  # of the axes in order, None where dynamic
Moves = list[tuple[int, int, int, int]]  # axis before, axis after, repeat each, tile all


def _sizes(value: ir.Value | None) -> Sizes | None:
    if value is None or rank(value) is None:
        return None
    return [static_size(value, axis) for axis in range(rank(value) or 0)]


def moves(node: ir.Node) -> Moves | None:
    """How each axis survives a reshape: (before, after, repeat, tile); None if it is not known.

    An axis alone in its group passes. One that is merged with others, rows of a flattened map,
    appears with every index repeated for the axes behind it, tiled for those before it. Split axes
    are not in the list.
    """
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    pairs = groups(before, after) if before is not None and after is not None else None
    if before is None or after is None or pairs is None:
        return None
    found: Moves = []
    for left, right in pairs:
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


def groups(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes, before and after a reshape, that hold the same elements; None: not known.

    With one dynamic dimension on each side, the batch, the two are the same where all others agree
    in number of elements: then they must be. Where they do not agree (the batch is merged with the
    heads), axes of equal length at the end pair up, and what is left is one run.
    """
    if before.count(None) > 1 or before.count(None) != after.count(None):
        return None
    if _static(before) == _static(after):
        return _runs(before, after)
    tail = 0
    while tail < min(len(before), len(after)) and before[-1 - tail] == after[-1 - tail] is not None:
        tail += 1
    left, right = len(before) - tail, len(after) - tail
    if None not in before or _static(before[:left]) == _static(after[:right]) or not tail:
        return None
    ends = [([left + i], [right + i]) for i in range(tail)]
    return [(list(range(left)), list(range(right))), *ends]


def _static(sizes: Sizes) -> int:
    return math.prod(size for size in sizes if size is not None)


def _runs(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]]:
    """Shortest runs with the same number of elements, from the front."""
    found = []
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
        found.append((left, right))
    return found


def _count(sizes: Sizes, axes: list[int]) -> float:
    # a dynamic size is an irrational factor: it equals nothing but itself
    return math.prod(math.pi if sizes[a] is None else float(sizes[a] or 0) for a in axes)


def splits(node: ir.Node) -> list[tuple[int, list[int]]]:
    """Axes that a reshape splits: the axis before, and those after that are longer than one."""
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    pairs = groups(before, after) if before is not None and after is not None else None
    if before is None or after is None or pairs is None:
        return []
    found = []
    for left, right in pairs:
        left, right = [a for a in left if before[a] != 1], [a for a in right if after[a] != 1]
        if len(left) == 1 and len(right) > 1 and before[left[0]] is not None:
            found.append((left[0], right))
    return found


def _by_part(
    node: ir.Node, parts: list[int], carrier: int, array: NDArray[Scalar]
) -> NDArray[Scalar]:
    """An array along a split axis as [index of the carrying part, everything else]."""
    sizes = [static_size(node.outputs[0], axis) or 0 for axis in parts]
    return np.moveaxis(array.reshape(sizes), carrier, 0).reshape(sizes[carrier], -1)


def _couple_splits(node: ir.Node, axes: Axes) -> set[int]:
    """Tie what shares an index of the part that carries labels; the axes that were coupled.

    Attention heads are one axis split in two, (heads, dimensions). Either whole heads can be cut
    or the same dimensions of all heads: ``axes.carrier`` says which part it is this time.
    """
    done = set()
    for before, parts in splits(node):
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        axes.carriers = max(axes.carriers, len(parts))
        carrier = min(axes.carrier, len(parts) - 1)
        labels = _by_part(node, parts, carrier, axes.of(source, before))
        for column in labels.T[1:]:
            axes.tie(labels[:, 0], column)
        axes.assign(result, parts[carrier], labels[:, 0])
        done |= {before}
        for axis in parts:
            if axis != parts[carrier]:
                axes.pin_axis(result, axis)
    return done


def couple_reshape(node: ir.Node, axes: Axes) -> None:
    """Flattened channels are cut as blocks of features, split ones by one of their parts."""
    source, result, found = node.inputs[0], node.outputs[0], moves(node)
    rewritable = _rewritable(node)
    if source is None or found is None or not rewritable:
        wall(node, axes)
        return
    divided = _couple_splits(node, axes)
    for axis in range(rank(result) or 0):
        if axes.has(result, axis) and not any(move[1] == axis for move in found):
            continue
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
    for axis in set(range(rank(source) or 0)) - {before for before, *_ in found} - divided:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")


def _rewritable(node: ir.Node) -> bool:
    """Whether the node says what it does once an axis is shorter.

    A Squeeze without axes drops whatever has come to be of length one.
    """
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Squeeze":
        return given is not None or "axes" in node.attributes
    return node.op_type != "Reshape" or given is not None


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
    for before, parts in splits(node):
        known = facts.of(source, before) if source is not None else None
        for position, axis in enumerate(parts if known is not None else []):
            assert known is not None
            rows = _by_part(node, parts, position, known)
            facts.learn(
                node.outputs[0], axis, np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)
            )


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
