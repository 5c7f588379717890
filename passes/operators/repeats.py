"""Rules for Expand, Tile and ConstantOfShape: results that repeat what they are given."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts, constant_array
from prunedeploy.passes.analysis.shape_targets import entries, retarget, rewritable
from prunedeploy.passes.operators.operator import Keep, Operator, opaque, pin_parameters


def _entry(node: ir.Node, axis: int) -> int | None:
    """Where in the target shape of an Expand an axis of the result stands; None: nowhere."""
    given = static_size(node.inputs[1], 0) if node.inputs[1] is not None else None
    position = axis - (rank(node.outputs[0]) or 0) + (given or 0)
    return position if position >= 0 else None


def couple_expand(node: ir.Node, axes: Axes) -> None:
    """Axes of the same length pass; indices that repeat one may go, if the target can say so."""
    source, target, result = node.inputs[0], node.inputs[1], node.outputs[0]
    width = rank(result)
    if source is None or target is None or rank(source) is None or width is None:
        opaque(node, axes)
        return
    pin_parameters(node, axes)
    asked, free = entries(target) or [], rewritable(target)
    known = constant_array(target) is not None or static_size(target, 0) is not None
    for axis in range(width):
        before, entry = axis - width + (rank(source) or 0), _entry(node, axis)
        size = static_size(result, axis)
        open_ = known and (entry is None or free[entry : entry + 1] == [True])
        one = known and entry is not None and asked[entry : entry + 1] == [1]
        passes = before >= 0 and size is not None and static_size(source, before) == size
        if passes and (open_ or one):
            axes.assign(result, axis, axes.of(source, before))
            continue
        if before >= 0:
            axes.pin_axis(source, before, f"Expand ({node.name})")
        if passes or size is None or not open_:
            axes.pin_axis(result, axis, f"Expand ({node.name})")
        else:
            axes.assign(result, axis, axes.fresh(size, copies=True))


def expand_constants(node: ir.Node, facts: Facts) -> None:
    """Constants pass; what repeats a constant holds it throughout."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None:
        return
    for axis in range(rank(result) or 0):
        size = static_size(result, axis)
        if size is None:
            continue
        before = axis - (rank(result) or 0) + (rank(source) or 0)
        known = facts.aligned(source, before, size)
        if known is None and before >= 0 and static_size(source, before) == 1:
            whole = facts.of(source, before)
            known = None if whole is None else whole.repeat(size)
        facts.learn(result, axis, known)


def edit_expand(node: ir.Node, keep: Keep) -> None:
    """The target shape names fewer indices; a one stands for whatever the source has."""
    asked, sizes = entries(node.inputs[1]), {}
    for axis, left in keep.left(node.outputs[0], range(rank(node.outputs[0]) or 0)).items():
        entry = _entry(node, axis)
        if entry is not None and (asked is None or asked[entry] != 1):
            sizes[entry] = left
    if sizes:
        retarget(node, 1, sizes)


def _times(node: ir.Node) -> list[int] | None:
    """How often a Tile repeats each axis; None where that is not known."""
    source = node.inputs[0]
    array = constant_array(node.inputs[1]) if len(node.inputs) == 2 else None
    if source is None or array is None or rank(source) != array.size:
        return None
    return [int(number) for number in array.reshape(-1)]


def couple_tile(node: ir.Node, axes: Axes) -> None:
    """Copies are cut with what they copy; those of an axis of length one each for itself."""
    source, times = node.inputs[0], _times(node)
    if source is None or times is None:
        opaque(node, axes)
        return
    pin_parameters(node, axes)
    for axis, count in enumerate(times):
        if count > 1 and static_size(source, axis) == 1:
            axes.pin_axis(source, axis, f"Tile ({node.name})")
            axes.assign(node.outputs[0], axis, axes.fresh(count, copies=True))
        elif count >= 1:
            axes.assign(node.outputs[0], axis, np.tile(axes.of(source, axis), count))
        else:
            axes.pin_axis(source, axis, f"Tile ({node.name})")


def tile_constants(node: ir.Node, facts: Facts) -> None:
    """Copies hold what they copy."""
    source = node.inputs[0]
    for axis, count in enumerate(_times(node) or []):
        known = facts.of(source, axis) if source is not None else None
        if known is not None and count >= 1:
            facts.learn(node.outputs[0], axis, np.tile(known, count))


def edit_tile(node: ir.Node, keep: Keep) -> None:
    """Fewer copies of what is of length one."""
    sizes = {}
    for axis, count in enumerate(_times(node) or []):
        mask = keep.of(node.outputs[0], axis)
        if mask is not None and len(mask) == count > 1:
            sizes[axis] = int(mask.sum())
    if sizes:
        retarget(node, 1, sizes)


def couple_filled(node: ir.Node, axes: Axes) -> None:
    """ConstantOfShape: every index alike, so any may go where the shape can be rewritten."""
    pin_parameters(node, axes, 0)
    result, free = node.outputs[0], rewritable(node.inputs[0])
    for axis in range(rank(result) or 0):
        size = static_size(result, axis)
        if size is not None and free[axis : axis + 1] == [True]:
            axes.assign(result, axis, axes.fresh(size, copies=True))
        else:
            axes.pin_axis(result, axis, f"{node.op_type} ({node.name})")


def filled_constants(node: ir.Node, facts: Facts) -> None:
    """The number it is filled with, zero where none is given."""
    given = node.attributes.get_tensor("value", None)
    number = 0.0 if given is None else float(np.asarray(given.numpy()).reshape(-1)[0])
    for axis in range(rank(node.outputs[0]) or 0):
        known: Constants = np.full(static_size(node.outputs[0], axis) or 0, number)
        facts.learn(node.outputs[0], axis, known if len(known) else None)


def edit_filled(node: ir.Node, keep: Keep) -> None:
    """The shape names fewer indices."""
    if sizes := keep.left(node.outputs[0], range(rank(node.outputs[0]) or 0)):
        retarget(node, 0, sizes)


OPERATORS = (
    Operator("ConstantOfShape", couple=couple_filled, constants=filled_constants, edit=edit_filled),
    Operator(
        "Expand",
        couple=couple_expand,
        constants=expand_constants,
        moves_elements=True,
        edit=edit_expand,
    ),
    Operator(
        "Tile", couple=couple_tile, constants=tile_constants, moves_elements=True, edit=edit_tile
    ),
)
