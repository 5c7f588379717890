"""Rules for Concat and Pad: results in which an axis goes on with other indices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.shrink.axes import Axes, rank, static_size
from prunedeploy.passes.shrink.facts import Facts, constant_array
from prunedeploy.passes.shrink.rule import Keep, replace_input, wall
from prunedeploy.types import Array


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
