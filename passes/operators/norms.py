"""Rules for normalisations: what their statistics are taken over, and what may go nevertheless.

LayerNormalization (Ba et al., 2016, arXiv:1607.06450) and RMSNormalization (Zhang and Sennrich,
2019, arXiv:1910.07467) read every index of the axes they go over. An index that holds zero adds a
known share to the statistics, so it can go when nobody needs the result there; the statistics
remain those of the old width. While the pass runs, the node itself remembers that width, so that
every round can cut more; ``lowering`` writes down at the end what it comes to.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.operators.channelwise import EPSILON
from prunedeploy.passes.operators.elementwise import couple_elementwise
from prunedeploy.passes.operators.operator import Keep, Operator, Reads, opaque, read_besides

WIDTH = "prunedeploy.width"  # metadata of a norm: how many indices its statistics are taken over


def normalised_axes(node: ir.Node) -> list[int]:
    """The axes the statistics of a Layer- or RMSNormalization are taken over."""
    source = node.inputs[0]
    width = rank(source) if source is not None else None
    if width is None:
        return []
    return list(range(node.attributes.get_int("axis", -1) % width, width))


def old_width(node: ir.Node) -> int | None:
    """How many indices the statistics are of, some cut since; None where none was cut."""
    remembered = node.metadata_props.get(WIDTH)
    return None if remembered is None else int(remembered)


def _size(value: ir.Value, axes: list[int]) -> int | None:
    sizes = [static_size(value, axis) for axis in axes]
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def couple_norm(node: ir.Node, axes: Axes) -> None:
    """Result, scale and bias are cut with the source.

    The axes normalised stay whole where one of them is of unknown length: the old width would not
    be known.
    """
    source, result = node.inputs[0], node.outputs[0]
    known = source is not None and source.dtype is not None
    if source is None or not known or rank(source) != rank(result) or read_besides(node):
        opaque(node, axes)
        return
    along = normalised_axes(node)
    if not _size(source, along):
        for axis in along:
            axes.pin_axis(source, axis, f"{node.op_type} ({node.name}) of unknown width")
    couple_elementwise(node, axes)


def norm_reads(node: ir.Node, facts: Facts) -> Reads:
    """Indices not known to be zero take part in the statistics, whoever reads the result."""
    return _nonzero(node.inputs[0], normalised_axes(node), facts)


def _nonzero(source: ir.Value | None, axes: list[int], facts: Facts) -> Reads:
    """Along these axes of known length, the indices not known to be zero."""
    sizes = {axis: static_size(source, axis) for axis in axes} if source is not None else {}
    return [
        (source, axis, ~_zero(facts.of(source, axis), size))
        for axis, size in sizes.items()
        if source is not None and size is not None
    ]


def _zero(known: Constants | None, size: int) -> Mask:
    return np.zeros(size, bool) if known is None else np.asarray(known == 0)


def norm_constants(node: ir.Node, facts: Facts) -> None:
    """Where the scale is zero the result is the bias, and so it is where all of a norm's input is.

    RMSNormalization, which has no bias, leaves every zero a zero: what it divides by is shared by
    all that it normalises, and were it zero, none of that would be finite.
    """
    source, result = node.inputs[0], node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if source is None or len(node.inputs) < 2 or node.inputs[1] is None:
        return
    scale, width = node.inputs[1], rank(result) or 0
    safe, along = node.attributes.get_float("epsilon", EPSILON) > 0, normalised_axes(node)
    for axis in range(width):
        size = static_size(result, axis)
        if size is None:
            continue
        slope = facts.aligned(scale, axis - width + (rank(scale) or 0), size)
        flat = _zero(None if slope is None else facts.zero.scalars(slope), size)
        shift: Constants | None = np.zeros(size)
        if bias is not None:
            shift = facts.aligned(bias, axis - width + (rank(bias) or 0), size)
        zero_stays = node.op_type == "RMSNormalization" if axis in along else safe
        if zero_stays:
            flat |= _zero(facts.of(source, axis), size)
        if shift is not None and flat.any():
            facts.learn(result, axis, np.where(flat, shift, np.nan))


def edit_norm(node: ir.Node, keep: Keep) -> None:
    """Remember the old width, if some of it goes now for the first time."""
    source, along = node.inputs[0], normalised_axes(node)
    if source is not None and any(keep.of(source, axis) is not None for axis in along):
        node.metadata_props.setdefault(WIDTH, str(_size(source, along)))


def couple_group_norm(node: ir.Node, axes: Axes) -> None:
    """The channels of a group are cut together, whole groups at a time; the other axes stay.

    Statistics of a group are read by that group alone. The form before opset 21, which ONNX has
    withdrawn, has one scale a group.
    """
    source, result = node.inputs[0], node.outputs[0]
    size = static_size(source, 1) if source is not None else None
    groups = node.attributes.get_int("num_groups", 1)
    whole = size is not None and groups > 0 and size % groups == 0
    vectors = all(value is not None and static_size(value, 0) == size for value in node.inputs[1:])
    if source is None or size is None or not (whole and vectors) or rank(source) != rank(result):
        opaque(node, axes)
        return
    for axis in range(2, rank(source) or 0):
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
    channels = axes.of(source, 1)
    by_group = channels.reshape(groups, -1)
    for labels in by_group.T[1:]:
        axes.tie(by_group[:, 0], labels)
    axes.share(source, result)
    for vector in node.inputs[1:]:
        if vector is not None:
            axes.assign(vector, 0, channels)


def group_norm_constants(node: ir.Node, facts: Facts) -> None:
    """A group of zeros holds its bias; so does a channel, or group, with a scale of zero."""
    source, result = node.inputs[0], node.outputs[0]
    size = static_size(source, 1) if source is not None else None
    groups = node.attributes.get_int("num_groups", 1)
    if source is None or size is None or not groups or size % groups or len(node.inputs) < 3:
        return
    zero = _zero(facts.of(source, 1), size).reshape(groups, -1).all(axis=1)
    scale, bias = node.inputs[1:3]
    slope = facts.of(scale, 0) if scale is not None else None
    shift = facts.of(bias, 0) if bias is not None else None
    if slope is None or shift is None or len(slope) != size or len(shift) != size:
        return
    flat = zero.repeat(size // groups) | (facts.zero.scalars(slope) == 0)
    facts.learn(result, 1, np.where(flat, shift, np.nan))


def edit_group_norm(node: ir.Node, keep: Keep) -> None:
    """Fewer groups."""
    stays = keep.of(node.inputs[0], 1)
    if stays is not None:
        groups = node.attributes.get_int("num_groups", 1)
        left = int(stays.reshape(groups, -1)[:, 0].sum())
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", left)


def couple_lp_norm(node: ir.Node, axes: Axes) -> None:
    """All axes pass: an index at zero adds nothing to the norm (``lp_norm_reads``)."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or rank(source) != rank(result):
        opaque(node, axes)
        return
    axes.share(source, result)


def lp_norm_reads(node: ir.Node, facts: Facts) -> Reads:
    """Along the axis of the norm, whatever is not known to be zero."""
    axis = _along(node)
    return [] if axis is None else _nonzero(node.inputs[0], [axis], facts)


def lp_norm_constants(node: ir.Node, facts: Facts) -> None:
    """Zero divided by the norm of the others."""
    source, axis = node.inputs[0], _along(node)
    if source is not None and axis is not None:
        known = facts.of(source, axis)
        if known is not None:
            facts.learn(node.outputs[0], axis, np.where(known == 0, 0.0, np.nan))


def _along(node: ir.Node) -> int | None:
    width = rank(node.inputs[0]) if node.inputs[0] is not None else None
    return node.attributes.get_int("axis", -1) % width if width else None


def couple_statistics(node: ir.Node, axes: Axes) -> None:
    """LRN and MeanVarianceNormalization: the axes they mix cannot be cut, the others pass."""
    source, result = node.inputs[0], node.outputs[0]
    width = rank(source) if source is not None else None
    if source is None or not width or rank(result) != width:
        opaque(node, axes)
        return
    mixed = [1]
    if node.op_type == "MeanVarianceNormalization":
        mixed = [axis % width for axis in node.attributes.get_ints("axes", [0, 2, 3])]
    for axis in mixed:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
    axes.share(source, result)


def statistics_constants(node: ir.Node, facts: Facts) -> None:
    """LRN divides each element by a number of its own that is not zero: zeros stay."""
    source, positive = node.inputs[0], node.attributes.get_float("bias", 1.0) > 0
    if source is None or node.op_type != "LRN" or not positive:
        return
    for axis in facts.axes(source):
        known = facts.of(source, axis)
        assert known is not None
        facts.learn(node.outputs[0], axis, np.where(known == 0, 0.0, np.nan))


_NORM = Operator(
    "LayerNormalization",
    couple=couple_norm,
    constants=norm_constants,
    reads=norm_reads,
    edit=edit_norm,
)
_STATISTICS = Operator("LRN", couple=couple_statistics, constants=statistics_constants)

OPERATORS = (
    Operator(
        "GroupNormalization",
        couple=couple_group_norm,
        constants=group_norm_constants,
        edit=edit_group_norm,
    ),
    _NORM,
    replace(_NORM, name="RMSNormalization"),
    Operator(
        "LpNormalization", couple=couple_lp_norm, constants=lp_norm_constants, reads=lp_norm_reads
    ),
    _STATISTICS,
    replace(_STATISTICS, name="MeanVarianceNormalization"),
)
