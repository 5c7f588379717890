"""Rules for Split, Slice and Gather: results that take some of the indices of an axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, Labels, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.analysis.value_numbers import ValueNumbers, digest
from prunedeploy.passes.names import put_before, replace_input
from prunedeploy.passes.operators import operator
from prunedeploy.passes.operators.operator import AxisOrder, Indices, Keep, Operator, pin_parameters
from prunedeploy.reference.opsets import opset

# a result, its axis, and the indices of the source it takes (None where they are not known)
Selection = list[tuple[ir.Value, int, NDArray[np.int64] | None]]


def along(node: ir.Node) -> Selection | None:
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
    bounds = slice_bounds(node)
    if bounds is None:
        along = _sliced_axes(node, width)
        return None if along is None else [(node.outputs[0], axis, None) for axis in along]
    selection: Selection = []
    for start, end, axis, step in zip(*(bound.tolist() for bound in bounds), strict=True):
        size = static_size(source, axis)
        indices = np.arange(size)[slice(start, end, step)] if size is not None else None
        selection.append((node.outputs[0], axis % width, indices))
    return selection


def slice_bounds(node: ir.Node) -> list[NDArray[np.int64]] | None:
    """Starts, ends, axes and steps of a Slice, as long as one another; None if any is computed."""
    given: list[Array | None]
    if len(node.inputs) > 1:
        given = [constant_array(value) for value in node.inputs[1:]]
        absent = [value is None for value in node.inputs[1:]]
    else:  # attributes, before opset 10
        listed = [node.attributes.get_ints(name, None) for name in ("starts", "ends", "axes")]
        given = [None if numbers is None else np.array(numbers) for numbers in listed]
        absent = [numbers is None for numbers in listed]
    defaults: list[Array] = []
    if len(given) >= 2 and given[0] is not None:
        count = given[0].size
        defaults = [np.arange(count), np.ones(count)]
    for position, default in enumerate(defaults, start=2):
        if position >= len(given):
            given.append(default)
        elif absent[position]:
            given[position] = default
    if len(given) != 4 or any(array is None for array in given):
        return None
    return [np.asarray(array).reshape(-1).astype(np.int64) for array in given]


def _sliced_axes(node: ir.Node, width: int) -> list[int] | None:
    """The axes that a Slice with computed bounds works along, where at least they are known."""
    array = constant_array(node.inputs[3]) if len(node.inputs) > 3 else None
    return None if array is None else [int(axis) % width for axis in array.reshape(-1)]


def _gather(node: ir.Node, source: ir.Value, width: int) -> Selection | None:
    indices = constant_array(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % width
    size = static_size(source, axis)
    if indices is None or indices.ndim != 1 or not size:
        return None
    return [(node.outputs[0], axis, indices.astype(np.int64) % size)]


def couple_selection(node: ir.Node, axes: Axes) -> None:
    """The indices taken keep their labels; the other axes pass."""
    source, selection = node.inputs[0], along(node)
    if source is None or selection is None:
        operator.opaque(node, axes)
        return
    pin_parameters(node, axes)
    chosen = {axis for _, axis, _ in selection}
    for result in node.outputs:
        for axis in set(range(rank(source) or 0)) - chosen:
            axes.assign(result, axis, axes.of(source, axis))
    for result, axis, indices in selection:
        labels: Labels = axes.of(source, axis)
        if indices is None:
            axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
            axes.pin_axis(result, axis)
        else:
            axes.assign(result, axis, labels[indices])


def selection_constants(node: ir.Node, facts: Facts) -> None:
    """Constants go with the indices taken."""
    source, selection = node.inputs[0], along(node)
    if source is None or selection is None:
        return
    chosen = {axis for _, axis, _ in selection}
    for axis in facts.axes(source):
        known = facts.of(source, axis)
        for result in node.outputs:
            if axis not in chosen:
                facts.learn(result, axis, known)
    for result, axis, indices in selection:
        known = facts.of(source, axis)
        if known is not None and indices is not None:
            facts.learn(result, axis, known[indices])


def edit_selection(node: ir.Node, keep: Keep) -> None:
    """Positions are counted again among what is left.

    Only where something was cut along the axis: other slices are left as they are.
    """
    source, selection = node.inputs[0], along(node)
    assert source is not None
    for result, axis, indices in selection or []:
        mask, left = keep.of(source, axis), keep.of(result, axis)
        if mask is None or indices is None:
            continue
        kept = indices if left is None else indices[left]
        positions = (np.cumsum(mask) - 1)[kept]
        if node.op_type == "Gather":
            replace_input(node, 1, positions, "indices")
        elif node.op_type == "Slice":
            _edit_slice(node, axis, positions)
    if node.op_type == "Split" and selection and keep.of(source, selection[0][1]) is not None:
        set_split(node, [_kept(value, axis, keep) for value, axis, _ in selection])


def _kept(value: ir.Value, axis: int, keep: Keep) -> int:
    mask = keep.of(value, axis)
    return (static_size(value, axis) or 0) if mask is None else int(mask.sum())


def set_split(node: ir.Node, sizes: list[int]) -> None:
    """The parts' sizes: an attribute before opset 13, an input from then on."""
    if opset(node) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    replace_input(node, 1, np.array(sizes, np.int64), "split")


def _edit_slice(node: ir.Node, axis: int, positions: NDArray[np.int64]) -> None:
    """Bounds for the new positions; where they are not evenly spaced the axis is gathered."""
    source, bounds = node.inputs[0], slice_bounds(node)
    assert source is not None
    assert bounds is not None
    width = rank(source) or 1
    where = [int(number) % width for number in bounds[2]].index(axis)
    steps = np.diff(positions)
    if len(steps) and (steps != steps[0]).any():
        if bounds[2].size == 1 and len(node.inputs) > 1:
            _become_gather(node, axis, positions)
            return
        _gather_before(node, axis, positions)
        positions, steps = np.arange(len(positions)), steps[:0] + 1
    step = int(steps[0]) if len(steps) else 1
    first, last = (int(positions[0]), int(positions[-1])) if len(positions) else (0, -1)
    end = last + 1 if step > 0 else (last - 1 if last else np.iinfo(np.int32).min)
    for bound, number in zip(bounds, (first, end, axis, step), strict=True):
        bound[where] = number
    _set_bounds(node, bounds)


def _set_bounds(node: ir.Node, bounds: list[NDArray[np.int64]]) -> None:
    """Write the bounds where this version of Slice has them, all of one type."""
    names = ("starts", "ends", "axes", "steps")
    if len(node.inputs) == 1:
        for name, bound in zip(names[:3], bounds, strict=False):
            node.attributes[name] = ir.AttrInt64s(name, bound.tolist())
        return
    count = 4 if len(node.inputs) > 4 or (bounds[3] != 1).any() else 3
    for index, (name, bound) in enumerate(zip(names[:count], bounds, strict=False), start=1):
        replace_input(node, index, bound, name)


def _become_gather(node: ir.Node, axis: int, positions: NDArray[np.int64]) -> None:
    node.op_type = "Gather"
    node.attributes["axis"] = ir.AttrInt64("axis", axis)
    node.resize_inputs(2)
    replace_input(node, 1, positions, "indices")


def _gather_before(node: ir.Node, axis: int, positions: NDArray[np.int64]) -> None:
    """``node`` reads these positions of its first input's axis only."""
    source = node.inputs[0]
    assert source is not None
    gather = ir.node("Gather", [source], {"axis": axis})
    taken = put_before(node, gather, f"{node.name or node.outputs[0].name}.gather", "taken")
    taken.type = source.type
    replace_input(gather, 1, positions, "indices")
    node.replace_input_with(0, taken)


def couple_gather(node: ir.Node, axes: Axes) -> None:
    """A list of known indices is a selection; computed ones keep the axis they index whole.

    Known indices in another shape, a scalar or a table, need what they name (see ``gathered``).
    The other axes pass, those behind it moved by the rank of the indices less one.
    """
    passing = _gather_passes(node)
    if passing is None or along(node) is not None:
        couple_selection(node, axes)
        return
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    pin_parameters(node, axes)
    before = {a for a, _ in passing}
    for axis in set(range(rank(source) or 0)) - before:
        if _table(node) is None:
            axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
        axes.of(source, axis)  # free otherwise, but for what ``gathered`` says
    for axis in set(range(rank(result) or 0)) - {a for _, a in passing}:
        axes.pin_axis(result, axis)
    for axis, position in passing:
        axes.assign(result, position, axes.of(source, axis))


def _table(node: ir.Node) -> tuple[int, NDArray[np.int64]] | None:
    """The axis and the known indices of a Gather whose indices are no list."""
    source, indices = node.inputs[0], constant_array(node.inputs[1])
    width = rank(source) if source is not None else None
    if node.op_type != "Gather" or indices is None or indices.ndim == 1 or not width:
        return None
    assert source is not None
    axis = node.attributes.get_int("axis", 0) % width
    size = static_size(source, axis)
    return (axis, indices.astype(np.int64) % size) if size else None


def gathered(node: ir.Node, _: Facts) -> operator.Reads:
    """The indices that a scalar or a table takes are needed, whoever reads the result."""
    table, source = _table(node), node.inputs[0]
    if table is None or source is None:
        return []
    axis, indices = table
    needed = np.zeros(static_size(source, axis) or 0, bool)
    needed[indices.reshape(-1)] = True
    return [(source, axis, needed)]


def gather_constants(node: ir.Node, facts: Facts) -> None:
    """Constants along the axes that pass."""
    passing, source = _gather_passes(node), node.inputs[0]
    if passing is None or source is None or along(node) is not None:
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
    """Positions are counted again."""
    table, source = _table(node), node.inputs[0]
    if table is not None:
        axis, indices = table
        mask = keep.of(source, axis)
        if mask is not None:
            replace_input(node, 1, (np.cumsum(mask) - 1)[indices], "indices")
    elif along(node) is not None:
        edit_selection(node, keep)


def number_selection(node: ir.Node, known: ValueNumbers) -> None:
    """Indices taken keep their classes, where no other axis is selected from."""
    source, selection = node.inputs[0], along(node)
    if source is None or selection is None or len({axis for _, axis, _ in selection}) != 1:
        return
    for result, axis, indices in selection:
        if indices is not None and known.followed(result, axis):
            known.pass_on(result, axis, known.of(source, axis)[indices])
        for other in set(range(rank(source) or 0)) - {axis}:
            if indices is not None and known.followed(result, other):
                where = known.one(("selection", axis, other, digest(indices)))
                keys = [(where, key) for key in known.of(source, other).tolist()]
                known.learn(result, other, keys)


def reorder_gather(node: ir.Node, at: AxisOrder, chosen: Indices) -> list[AxisOrder] | None:
    """A selection along the axis takes the order into its indices; along another it passes."""
    (value, axis, order), source, result = at, node.inputs[0], node.outputs[0]
    given = constant_array(node.inputs[1])
    along = node.attributes.get_int("axis", 0) % (rank(value) or 1)
    if source is None or given is None or given.ndim != 1 or value is node.inputs[1]:
        return None
    if axis != along:
        return [(source, axis, order), (result, axis, order)]
    size = static_size(source, along)
    if size is None:
        return None
    now = chosen.get(node, given.astype(np.int64) % size)
    chosen[node] = np.argsort(order)[now] if value is source else now[order]
    return []


_SELECTION = Operator(
    "Slice",
    couple=couple_selection,
    constants=selection_constants,
    moves_elements=True,
    number=number_selection,
    edit=edit_selection,
)

OPERATORS = (
    Operator(
        "Gather",
        couple=couple_gather,
        constants=gather_constants,
        moves_elements=True,
        number=number_selection,
        reorder=reorder_gather,
        reads=gathered,
        edit=edit_gather,
    ),
    Operator("GatherND", couple=couple_gather, constants=gather_constants, moves_elements=True),
    _SELECTION,
    replace(_SELECTION, name="Split"),
)
