"""Rules for Concat and Pad: results in which an axis goes on with other indices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.operators.rule import Keep, pin_parameters, replace_input, wall


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
    """Constants of the parts follow one another; on the other axes all must hold the same."""
    parts, result = [v for v in node.inputs if v is not None], node.outputs[0]
    width = rank(result)
    if width is None or any(rank(part) != width for part in parts):
        return
    along = node.attributes.get_int("axis", 0) % width
    for axis in range(width):
        known = [_constants(part, axis, facts) for part in parts]
        if any(constants is None for constants in known):
            continue
        found = [constants for constants in known if constants is not None]
        if axis == along:
            facts.learn(result, axis, np.concatenate(found))
        elif len({len(constants) for constants in found}) == 1:
            same = np.all([constants == found[0] for constants in found], axis=0)
            facts.learn(result, axis, np.where(same, found[0], np.nan))


def _constants(part: ir.Value, axis: int, facts: Facts) -> Constants | None:
    """What is known along an axis, NaN for nothing; None where its length is not known."""
    known, size = facts.of(part, axis), static_size(part, axis)
    if known is None and size is not None:
        return np.full(size, np.nan)
    return known


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
    found = [node.attributes.get_ints(name, None) for name in ("pads", "paddings")]
    numbers = next((ints for ints in found if ints is not None), None)
    return None if numbers is None else np.array(numbers)


def padded_with(node: ir.Node) -> float | None:
    """What is padded with, None for modes that repeat the data and for a computed number."""
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
        wall(node, axes)
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
        size = static_size(source, axis)
        if size is None:
            continue
        known = facts.of(source, axis)
        middle = np.full(size, np.nan) if known is None else known
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
    source, found = node.inputs[0], pads(node)
    assert source is not None
    if found is None:
        return
    full, width = list(found), rank(source) or 0
    for axis in range(width):
        mask = keep.of(node.outputs[0], axis)
        if mask is not None:
            first, last = full[axis], full[axis + width]
            full[axis] = int(mask[:first].sum())
            full[axis + width] = int(mask[len(mask) - last :].sum())
    if full == found:
        return
    if len(node.inputs) == 1:
        name = "pads" if "pads" in node.attributes else "paddings"
        node.attributes[name] = ir.AttrInt64s(name, full)
        return
    node.resize_inputs(min(len(node.inputs), 3))  # the full list needs no axes input
    replace_input(node, 1, np.array(full, np.int64), "pads")
