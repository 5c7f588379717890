"""Rules for operators that move indices about: reshapes, concatenation, slices, padding."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.shrink.axes import Axes, Labels, rank, static_size
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.rule import Keep, replace_input, wall
from prunedeploy.types import Array

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


def couple_concat(node: ir.Node, axes: Axes) -> None:
    """Along the axis the parts' labels follow one another; the other axes are the same in all."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        wall(node, axes)
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        if axis == along:
            axes.assign(result, axis, np.concatenate([axes.of(part, axis) for part in parts]))
            continue
        for part in parts:
            axes.assign(result, axis, axes.of(part, axis))


def concat_constants(node: ir.Node, facts: Facts) -> None:
    """Constants of the parts follow one another."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        return
    axis = node.attributes.get_int("axis", 0) % width
    sizes = [static_size(part, axis) for part in parts]
    if any(size is None for size in sizes):
        return
    known = [facts.of(part, axis) for part in parts]
    pieces = [
        np.full(size or 0, np.nan) if k is None else k for k, size in zip(known, sizes, strict=True)
    ]
    facts.learn(result, axis, np.concatenate(pieces))


# a result, its axis, and the indices of the source it takes (None where they are not known)
Selection = list[tuple[ir.Value, int, NDArray[np.int64] | None]]


def _along(node: ir.Node) -> Selection | None:
    """For Split, Slice and Gather: each result with its axis and the indices it takes.

    A Slice yields one entry an axis; axes it leaves alone are not listed. None: not known.
    """
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if source is None or width is None:
        return None
    select = {"Split": _split, "Slice": _slice, "Gather": _gather}[node.op_type]
    return select(node, source, width)


def _split(node: ir.Node, _: ir.Value, width: int) -> Selection | None:
    axis = node.attributes.get_int("axis", 0) % width
    sizes = [static_size(value, axis) for value in node.outputs]
    if any(size is None for size in sizes):
        return None
    starts = np.cumsum([0, *[size or 0 for size in sizes]])
    return [
        (value, axis, np.arange(starts[i], starts[i + 1])) for i, value in enumerate(node.outputs)
    ]


def _slice(node: ir.Node, source: ir.Value, width: int) -> Selection | None:
    given = [constant_array(value) for value in node.inputs[1:]]
    if len(given) < 2 or any(g is None for g in given):
        return None
    arrays = [[int(number) for number in np.asarray(g).reshape(-1)] for g in given]
    starts, ends = arrays[0], arrays[1]
    along = arrays[2] if len(arrays) > 2 else list(range(len(starts)))
    steps = arrays[3] if len(arrays) > 3 else [1] * len(starts)
    found: Selection = []
    for start, end, axis, step in zip(starts, ends, along, steps, strict=True):
        size = static_size(source, axis)
        indices = np.arange(size)[slice(start, _end(end, step), step)] if size is not None else None
        found.append((node.outputs[0], axis % width, indices))
    return found


def _end(end: int, step: int) -> int | None:
    # ONNX writes "to the very first element, backwards" as a large negative number
    return None if step < 0 and end < -(2**31) else end


def _gather(node: ir.Node, source: ir.Value, width: int) -> Selection | None:
    indices = constant_array(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % width
    size = static_size(source, axis)
    if indices is None or indices.ndim != 1 or size is None:
        return None
    return [(node.outputs[0], axis, indices.astype(np.int64) % size)]


def couple_selection(node: ir.Node, axes: Axes) -> None:
    """The indices taken keep their labels; the other axes pass."""
    source, found = node.inputs[0], _along(node)
    if source is None or found is None:
        wall(node, axes)
        return
    chosen = {axis for _, axis, _ in found}
    for result in node.outputs:
        for axis in set(range(rank(source) or 0)) - chosen:
            axes.assign(result, axis, axes.of(source, axis))
    for result, axis, indices in found:
        labels: Labels = axes.of(source, axis)
        if indices is None:
            axes.pin_axis(result, axis)
        else:
            axes.assign(result, axis, labels[indices])


def selection_constants(node: ir.Node, facts: Facts) -> None:
    """Constants go with the indices taken."""
    source, found = node.inputs[0], _along(node)
    if source is None or found is None:
        return
    chosen = {axis for _, axis, _ in found}
    for axis in facts.axes(source):
        known = facts.of(source, axis)
        for result in node.outputs:
            if axis not in chosen:
                facts.learn(result, axis, known)
    for result, axis, indices in found:
        known = facts.of(source, axis)
        if known is not None and indices is not None:
            facts.learn(result, axis, known[indices])


def edit_selection(node: ir.Node, keep: Keep) -> None:
    """Positions are counted again among what is left; a Slice of one axis becomes a Gather.

    Only where something was cut along the axis: other slices are left as they are.
    """
    source, found = node.inputs[0], _along(node)
    assert source is not None
    for result, axis, indices in found or []:
        mask, left = keep.of(source, axis), keep.of(result, axis)
        if mask is None or indices is None:
            continue
        kept = indices if left is None else indices[left]
        positions = (np.cumsum(mask) - 1)[kept]
        if node.op_type == "Gather":
            replace_input(node, 1, positions, "indices")
        elif node.op_type == "Slice":
            _edit_slice(node, axis, positions)
    if node.op_type == "Split" and found and keep.of(source, found[0][1]) is not None:
        _set_split(node, [_kept(value, axis, keep) for value, axis, _ in found])


def _kept(value: ir.Value, axis: int, keep: Keep) -> int:
    mask = keep.of(value, axis)
    return (static_size(value, axis) or 0) if mask is None else int(mask.sum())


def _set_split(node: ir.Node, sizes: list[int]) -> None:
    """The parts' sizes: an attribute before opset 13, an input from then on."""
    if node.graph is not None and node.graph.opset_imports.get("", 13) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    replace_input(node, 1, np.array(sizes, np.int64), "split")


def _edit_slice(node: ir.Node, axis: int, positions: NDArray[np.int64]) -> None:
    """Bounds for the new positions, which coupling has made contiguous."""
    source = node.inputs[0]
    width = (rank(source) if source is not None else None) or 1
    starts, ends = (np.array(constant_array(node.inputs[i])) for i in (1, 2))
    given = constant_array(node.inputs[3]) if len(node.inputs) > 3 else None
    along = range(starts.size) if given is None else [int(number) % width for number in given]
    where = list(along).index(axis)
    starts[where], ends[where] = positions[0], positions[-1] + 1
    replace_input(node, 1, starts, "starts")
    replace_input(node, 2, ends, "ends")


def couple_slice(node: ir.Node, axes: Axes) -> None:
    """As a selection; with steps other than one the axis cannot be cut evenly and stays whole."""
    steps = constant_array(node.inputs[4]) if len(node.inputs) > 4 else None
    found, source = _along(node), node.inputs[0]
    if source is not None and found is not None and steps is not None:
        for (_, axis, _), step in zip(found, np.asarray(steps).reshape(-1), strict=True):
            if int(step) != 1:
                axes.pin_axis(source, axis, f"Slice ({node.name}) with steps")
    couple_selection(node, axes)


def pads(node: ir.Node) -> tuple[list[int], float] | None:
    """Begins and ends for every axis, and the number padded with; None for other modes."""
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if (
        width is None
        or given is None
        or node.attributes.get_string("mode", "constant") != "constant"
    ):
        return None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    number = constant_array(value) if value is not None else np.zeros(1)
    along = node.inputs[3] if len(node.inputs) > 3 else None
    chosen: Array | None = np.arange(width) if along is None else constant_array(along)
    if number is None or number.size != 1 or chosen is None:
        return None
    full = [0] * (2 * width)
    for position, axis in enumerate(chosen.reshape(-1)):
        full[int(axis) % width] = int(given[position])
        full[int(axis) % width + width] = int(given[position + chosen.size])
    return full, float(number.reshape(-1)[0])


def couple_pad(node: ir.Node, axes: Axes) -> None:
    """New indices get labels of their own: padded channels can be cut like any other."""
    source, result, found = node.inputs[0], node.outputs[0], pads(node)
    if source is None or found is None:
        wall(node, axes)
        return
    width = rank(source) or 0
    for axis in range(width):
        first, last = found[0][axis], found[0][axis + width]
        if not first and not last:
            axes.assign(result, axis, axes.of(source, axis))
        elif first >= 0 and last >= 0 and static_size(source, axis) is not None:
            middle = axes.of(source, axis)
            axes.assign(result, axis, np.concatenate([axes.fresh(first), middle, axes.fresh(last)]))
        else:
            axes.pin_axis(source, axis, f"Pad ({node.name})")
            axes.pin_axis(result, axis)


def pad_constants(node: ir.Node, facts: Facts) -> None:
    """Padded indices hold the padding's number; others theirs, if no other axis is padded."""
    source, result, found = node.inputs[0], node.outputs[0], pads(node)
    if source is None or found is None:
        return
    width = rank(source) or 0
    for axis in range(width):
        first, last = found[0][axis], found[0][axis + width]
        size = static_size(source, axis)
        if size is None or min(found[0]) < 0:
            continue
        known = facts.of(source, axis)
        middle = np.full(size, np.nan) if known is None else known
        elsewhere = [p for i, p in enumerate(found[0]) if i % width != axis]
        if any(elsewhere):  # borders of the other axes hold the padding's number too
            middle = np.where(middle == found[1], middle, np.nan)
        outer = [np.full(first, found[1]), middle, np.full(last, found[1])]
        facts.learn(result, axis, np.concatenate(outer))


def edit_pad(node: ir.Node, keep: Keep) -> None:
    """Fewer padded channels."""
    source, found = node.inputs[0], pads(node)
    assert source is not None
    assert found is not None
    full, width = list(found[0]), rank(source) or 0
    for axis in range(width):
        mask = keep.of(node.outputs[0], axis)
        if mask is not None:
            first, last = full[axis], full[axis + width]
            full[axis] = int(mask[:first].sum())
            full[axis + width] = int(mask[len(mask) - last :].sum())
    if full != found[0]:
        node.resize_inputs(min(len(node.inputs), 3))  # the full list needs no axes input
        replace_input(node, 1, np.array(full, np.int64), "pads")


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
