"""Rules for Split, Slice and Gather: results that take some of the indices of an axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.shrink.axes import Axes, Labels, rank, static_size
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.rule import Keep, replace_input, wall

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
    select = {"Split": _split, "Slice": _slice, "Gather": _gather}.get(node.op_type)
    return None if select is None else select(node, source, width)


def _split(node: ir.Node, source: ir.Value, width: int) -> Selection | None:
    axis = node.attributes.get_int("axis", 0) % width
    if static_size(source, axis) is None:
        return None
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


def couple_gather(node: ir.Node, axes: Axes) -> None:
    """A list of known indices is a selection; otherwise the axis gathered from stays whole.

    The other axes pass, those behind it moved by the rank of the indices less one.
    """
    passing = _gather_passes(node)
    if passing is None or _along(node) is not None:
        couple_selection(node, axes)
        return
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    before = {a for a, _ in passing}
    for axis in set(range(rank(source) or 0)) - before:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
    for axis in set(range(rank(result) or 0)) - {a for _, a in passing}:
        axes.pin_axis(result, axis)
    for axis, position in passing:
        axes.assign(result, position, axes.of(source, axis))


def gather_constants(node: ir.Node, facts: Facts) -> None:
    """Constants along the axes that pass."""
    passing, source = _gather_passes(node), node.inputs[0]
    if passing is None or source is None or _along(node) is not None:
        selection_constants(node, facts)
        return
    for axis, position in passing:
        facts.learn(node.outputs[0], position, facts.of(source, axis))


def _gather_passes(node: ir.Node) -> list[tuple[int, int]] | None:
    """(axis before, axis after) of the axes that a Gather or GatherND does not index."""
    source, indices = node.inputs[0], node.inputs[1]
    width = rank(source) if source is not None else None
    depth = rank(indices) if indices is not None else None
    if source is None or indices is None or width is None or depth is None:
        return None
    if node.op_type == "GatherND":
        indexed = static_size(indices, depth - 1)
        if indexed is None or node.attributes.get_int("batch_dims", False):
            return None
        return [(axis, axis - indexed + depth - 1) for axis in range(indexed, width)]
    gathered = node.attributes.get_int("axis", 0) % width
    return [
        (axis, axis if axis < gathered else axis + depth - 1)
        for axis in range(width)
        if axis != gathered
    ]


def edit_gather(node: ir.Node, keep: Keep) -> None:
    """Positions are counted again, for a selection; nothing otherwise."""
    if node.op_type == "Gather" and _along(node) is not None:
        edit_selection(node, keep)


def couple_slice(node: ir.Node, axes: Axes) -> None:
    """As a selection; with steps other than one the axis cannot be cut evenly and stays whole."""
    steps = constant_array(node.inputs[4]) if len(node.inputs) > 4 else None
    found, source = _along(node), node.inputs[0]
    if source is not None and found is not None and steps is not None:
        for (_, axis, _), step in zip(found, np.asarray(steps).reshape(-1), strict=True):
            if int(step) != 1:
                axes.pin_axis(source, axis, f"Slice ({node.name}) with steps")
    couple_selection(node, axes)
