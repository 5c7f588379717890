"""Rules for Concat and Pad: results in which an axis goes on with other indices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.analysis.feature_maps import held_beside_constants, held_channels
from prunedeploy.passes.analysis.ranges import ANYTHING, Range, Ranges, everywhere
from prunedeploy.passes.analysis.value_numbers import ValueNumbers, signature
from prunedeploy.passes.names import replace_input
from prunedeploy.passes.operators.intervals import kept
from prunedeploy.passes.operators.operator import Keep, Operator, opaque, pin_parameters


def couple_concat(node: ir.Node, axes: Axes) -> None:
    """Along the axis the parts' labels follow one another; the other axes are the same in all."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        opaque(node, axes)
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        if axis == along:
            axes.assign(result, axis, np.concatenate([axes.of(part, axis) for part in parts]))
            continue
        for part in parts:
            axes.assign(result, axis, axes.of(part, axis))


def concat_constants(node: ir.Node, facts: Facts) -> None:
    """Constants of the parts follow one another; on the other axes all must hold the same."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        if any(static_size(part, axis) is None for part in parts):
            continue
        complete = [facts.along(part, axis) for part in parts]
        if axis == along:
            facts.learn(result, axis, np.concatenate(complete))
        elif len({len(constants) for constants in complete}) == 1:
            same = np.all([constants == complete[0] for constants in complete], axis=0)
            facts.learn(result, axis, np.where(same, complete[0], np.nan))


def pads(node: ir.Node) -> list[int] | None:
    """Begins and ends for every axis; None where they are computed."""
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else _listed(node)
    along = node.inputs[3] if len(node.inputs) > 3 else None
    if width is None or given is None:
        return None
    chosen: Array | None = np.arange(width) if along is None else constant_array(along)
    if chosen is None or given.size != 2 * chosen.size:
        return None
    full = [0] * (2 * width)
    for position, axis in enumerate(chosen.reshape(-1)):
        full[int(axis) % width] = int(given[position])
        full[int(axis) % width + width] = int(given[position + chosen.size])
    return full


def _listed(node: ir.Node) -> Array | None:
    """The pads as an attribute, before opset 11; "paddings" before opset 2."""
    lists = [node.attributes.get_ints(name, None) for name in ("pads", "paddings")]
    numbers = next((ints for ints in lists if ints is not None), None)
    return None if numbers is None else np.array(numbers)


def padded_with(node: ir.Node) -> float | None:
    """Return the padding's number, None if it is computed or the data are repeated."""
    if _mode(node) != "constant":
        return None
    if len(node.inputs) < 2:
        return float(node.attributes.get_float("value", 0.0))
    value = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant_array(value) if value is not None else np.zeros(1)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def _mode(node: ir.Node) -> str:
    return node.attributes.get_string("mode", "constant")


def couple_pad(node: ir.Node, axes: Axes) -> None:
    """New indices get labels of their own: padded channels can be cut like any other.

    Where the data itself is repeated (reflect, edge, wrap) an axis that grows stays whole.
    """
    source, result, full = node.inputs[0], node.outputs[0], pads(node)
    if source is None or full is None:
        opaque(node, axes)
        return
    pin_parameters(node, axes)
    width = rank(source) or 0
    for axis in range(width):
        first, last = full[axis], full[axis + width]
        if not first and not last:
            axes.assign(result, axis, axes.of(source, axis))
        elif (
            _mode(node) == "constant"
            and min(first, last) >= 0
            and static_size(source, axis) is not None
        ):
            middle = axes.of(source, axis)
            axes.assign(result, axis, np.concatenate([axes.fresh(first), middle, axes.fresh(last)]))
        else:
            axes.pin_axis(source, axis, f"Pad ({node.name})")
            axes.pin_axis(result, axis)


def pad_constants(node: ir.Node, facts: Facts) -> None:
    """Padded indices hold the padding's number; others theirs, if no other axis is padded."""
    source, result, full = node.inputs[0], node.outputs[0], pads(node)
    if source is None or full is None or min(full) < 0:
        return
    width, number = rank(source) or 0, padded_with(node)
    for axis in range(width):
        first, last = full[axis], full[axis + width]
        if static_size(source, axis) is None:
            continue
        middle = facts.along(source, axis)
        elsewhere = any(pad for i, pad in enumerate(full) if i % width != axis)
        if elsewhere and _mode(node) == "constant":
            # borders of the other axes hold the padding's number too
            middle = np.where(middle == number, middle, np.nan)
        outer = np.nan if number is None else number
        facts.learn(
            result, axis, np.concatenate([np.full(first, outer), middle, np.full(last, outer)])
        )


def edit_pad(node: ir.Node, keep: Keep) -> None:
    """Fewer padded channels."""
    source, amounts = node.inputs[0], pads(node)
    assert source is not None
    if amounts is None:
        return
    full, width = list(amounts), rank(source) or 0
    for axis in range(width):
        mask = keep.of(node.outputs[0], axis)
        if mask is not None:
            first, last = full[axis], full[axis + width]
            full[axis] = int(mask[:first].sum())
            full[axis + width] = int(mask[len(mask) - last :].sum())
    if full == amounts:
        return
    if len(node.inputs) == 1:
        name = "pads" if "pads" in node.attributes else "paddings"
        node.attributes[name] = ir.AttrInt64s(name, full)
        return
    node.resize_inputs(min(len(node.inputs), 3))  # the full list needs no axes input
    replace_input(node, 1, np.array(full, np.int64), "pads")


def concat_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Channels side by side; whatever is not known of one operand says nothing of the others."""
    width = rank(node.outputs[0]) or 1
    operands = [value for value in node.inputs if value is not None]
    if node.attributes.get_int("axis", 1) % width != 1 or all(
        facts.maps(value) is None for value in operands
    ):
        return None
    held = [held_channels(value, facts) for value in operands]
    known = [mask for mask in held if mask is not None]
    return np.concatenate(known) if len(known) == len(held) else None


def pad_range(node: ir.Node, ranges: Ranges) -> Range:
    """Padded positions hold the padding's number; channels that are added hold nothing else."""
    source, result, full, number = node.inputs[0], node.outputs[0], pads(node), padded_with(node)
    mode = node.attributes.get_string("mode", "constant")
    if source is None or full is None or (mode == "constant" and number is None):
        return ANYTHING
    width, axis = rank(source) or 0, ranges.of(source).axis
    number = number if max(full) > 0 else None  # nothing but crops
    moved = axis is not None and (full[axis] != 0 or full[axis + width] != 0)
    if moved and (number is None or min(full) < 0):  # other indices, maybe as many as before
        ends = (*ranges.of(source).hull(), *([] if number is None else [number]))
        return everywhere(min(ends), max(ends))
    if not moved or axis is None or number is None:
        return kept(node, ranges) if number is None else kept(node, ranges, number, number)
    low, high = ranges.along(source, axis, static_size(source, axis) or 0)
    if any(p for i, p in enumerate(full) if i % width != axis):
        low, high = np.minimum(low, number), np.maximum(high, number)
    outer = np.full(full[axis], number), np.full(full[axis + width], number)
    sides = [np.concatenate([outer[0], bounds, outer[1]]) for bounds in (low, high)]
    if static_size(result, axis) != len(sides[0]):
        return ANYTHING
    return Range(sides[0], sides[1], axis)


def number_concat(node: ir.Node, known: ValueNumbers) -> None:
    """The parts' classes follow one another; along other axes an index of all parts is one key."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        if not known.followed(result, axis):
            continue
        columns = [known.of(part, axis) for part in parts]
        if axis == along:
            known.pass_on(result, axis, np.concatenate(columns))
        elif len({len(column) for column in columns}) == 1:
            keys = zip(*(column.tolist() for column in columns), strict=True)
            where = known.one(("Concat", along, axis))
            known.learn(result, axis, [(where, *key) for key in keys])


def number_pad(node: ir.Node, known: ValueNumbers) -> None:
    """Channels whose borders are padded alike, in whatever mode."""
    source, result, amounts = node.inputs[0], node.outputs[0], pads(node)
    if source is None or amounts is None:
        return
    width = rank(source) or 0
    for axis in range(width):
        if not amounts[axis] and not amounts[axis + width] and known.followed(result, axis):
            others = tuple(map(known.whole, node.inputs[1:]))
            where = known.one((signature(node), others, axis, width))
            known.learn(result, axis, [(where, key) for key in known.of(source, axis).tolist()])


def pad_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Known where the input is, if neither samples nor channels are padded."""
    full = pads(node)
    if full is None:
        return None
    half = len(full) // 2
    padded = any((*full[:2], *full[half : half + 2]))
    return None if padded else held_beside_constants(node, facts)


OPERATORS = (
    Operator(
        "Concat",
        couple=couple_concat,
        constants=concat_constants,
        maps=concat_maps,
        moves_elements=True,
        number=number_concat,
    ),
    Operator(
        "Pad",
        couple=couple_pad,
        constants=pad_constants,
        maps=pad_maps,
        ranges=pad_range,
        selects_elements=True,
        number=number_pad,
        edit=edit_pad,
    ),
)
