"""Rules for reshapes and transpositions, and for who asks for a shape."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.analysis.feature_maps import held_beside_constants
from prunedeploy.passes.analysis.lengths import Run, groups, lengths_of
from prunedeploy.passes.analysis.shape_targets import entries, reshaped, retarget, rewritable
from prunedeploy.passes.analysis.value_numbers import ValueNumbers
from prunedeploy.passes.operators.operator import (
    AxisOrder,
    Indices,
    Keep,
    Operator,
    opaque,
    pin_parameters,
)

Scalar = TypeVar("Scalar", bound=np.generic)
Sizes = list[int | None]  # of the axes in order, None where dynamic
Move = tuple[int, int, int, int]  # axis before, axis after, repeat each, tile all
Moves = list[Move]


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
    pairs = runs(node)
    if before is None or after is None or pairs is None:
        return None
    passing: Moves = []
    for left, right in pairs:
        wide = [axis for axis in right if after[axis] != 1]
        if len(wide) != 1:
            continue  # split, or nothing but ones
        for position, axis in enumerate(left):
            size = [before[a] or 0 for a in left]
            repeat, tile = math.prod(size[position + 1 :]), math.prod(size[:position])
            if before[axis] is None:
                repeat = tile = 1
            passing.append((axis, wide[0], repeat, tile))
    return passing


def runs(node: ir.Node) -> list[Run] | None:
    """The groups of axes, before and after, that hold the same elements."""
    source, result = node.inputs[0], node.outputs[0]
    before = lengths_of(source) if source is not None else None
    after = reshaped(node) if node.op_type == "Reshape" else None
    after = after or lengths_of(result)
    return groups(before, after) if before is not None and after is not None else None


def splits(node: ir.Node) -> list[tuple[int, list[int]]]:
    """Axes that a reshape splits: the axis before, and those after that are longer than one."""
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    pairs = runs(node)
    if before is None or after is None or pairs is None:
        return []
    divided = []
    for left, right in pairs:
        left, right = [a for a in left if before[a] != 1], [a for a in right if after[a] != 1]
        if len(left) == 1 and len(right) > 1 and before[left[0]] is not None:
            divided.append((left[0], right))
    return divided


def _by_part(
    node: ir.Node, parts: list[int], chosen: int, array: NDArray[Scalar]
) -> NDArray[Scalar]:
    """An array along a split axis as [index of the chosen part, everything else]."""
    sizes = [static_size(node.outputs[0], axis) or 0 for axis in parts]
    return np.moveaxis(array.reshape(sizes), chosen, 0).reshape(sizes[chosen], -1)


def _couple_splits(node: ir.Node, axes: Axes) -> set[int]:
    """Tie what shares an index of the part that carries labels; the axes that were coupled.

    Attention heads are one axis split in two, (heads, dimensions). Either whole heads can be cut
    or the same dimensions of all heads: ``axes.split_choice`` says which part it is this time.
    """
    done = set()
    for before, parts in splits(node):
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        axes.split_choices = max(axes.split_choices, len(parts))
        chosen = min(axes.split_choice, len(parts) - 1)
        labels = _by_part(node, parts, chosen, axes.of(source, before))
        for column in labels.T[1:]:
            axes.tie(labels[:, 0], column)
        axes.assign(result, parts[chosen], labels[:, 0])
        done |= {before}
        for axis in parts:
            if axis != parts[chosen]:
                axes.pin_axis(result, axis)
    return done


def blocks(node: ir.Node) -> list[tuple[int, int]]:
    """First axes, before and after, of runs in which one of the two is a multiple of the other.

    Channels and maps become groups of channels and whatever fills a group, and back again: what
    GroupNormalization is written with.
    """
    before, after, pairs = _sizes(node.inputs[0]), _sizes(node.outputs[0]), runs(node)
    if before is None or after is None or pairs is None:
        return []
    starts = []
    for left, right in pairs:
        left, right = [a for a in left if before[a] != 1], [a for a in right if after[a] != 1]
        if min(len(left), len(right)) < 2:
            continue
        one, other = before[left[0]], after[right[0]]
        if one and other and (one % other == 0 or other % one == 0):
            starts.append((left[0], right[0]))
    return starts


def _couple_blocks(node: ir.Node, axes: Axes) -> set[int]:
    """Tie the channels of each group; the axes that were coupled."""
    done = set()
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    for before, after in blocks(node):
        labels, size = axes.of(source, before), static_size(result, after) or 0
        if len(labels) > size:
            parts = labels.reshape(size, -1)
            for column in parts.T[1:]:
                axes.tie(parts[:, 0], column)
            axes.assign(result, after, parts[:, 0])
        else:
            axes.assign(result, after, labels.repeat(size // len(labels)))
        done |= {before}
    return done


def _block_constants(node: ir.Node, facts: Facts) -> None:
    """A group is constant where its channels hold the same; channels are what their group is."""
    source, result = node.inputs[0], node.outputs[0]
    for before, after in blocks(node):
        known = facts.of(source, before) if source is not None else None
        size = static_size(result, after)
        if known is None or size is None:
            continue
        if len(known) > size:
            parts = known.reshape(size, -1)
            same = (parts == parts[:, :1]).all(axis=1)
            facts.learn(result, after, np.where(same, parts[:, 0], np.nan))
        else:
            facts.learn(result, after, known.repeat(size // len(known)))


def couple_reshape(node: ir.Node, axes: Axes) -> None:
    """Flattened channels are cut as blocks of features, split ones by one of their parts."""
    source, result, passing = node.inputs[0], node.outputs[0], moves(node)
    if source is None or passing is None or not can_shrink(node):
        opaque(node, axes)
        return
    pin_parameters(node, axes)
    divided = _couple_splits(node, axes) | _couple_blocks(node, axes)
    for axis in range(rank(result) or 0):
        if axes.has(result, axis) and not any(move[1] == axis for move in passing):
            continue
        sources = [move for move in passing if move[1] == axis]
        chosen = _split_axis(source, sources, axes) if _whole(source, sources) else None
        if chosen is not None:
            before, _, repeat, tile = chosen
            axes.assign(result, axis, np.tile(np.repeat(axes.of(source, before), repeat), tile))
        else:
            axes.pin_axis(result, axis)
        for before, *_ in sources:
            if chosen is None or before != chosen[0]:
                axes.pin_axis(source, before, f"{node.op_type} ({node.name})")
    for axis in set(range(rank(source) or 0)) - {before for before, *_ in passing} - divided:
        axes.pin_axis(source, axis, f"{node.op_type} ({node.name})")
    if node.op_type == "Reshape" and len(node.inputs) > 1:
        for axis, free in enumerate(rewritable(node.inputs[1])):
            if not free:
                axes.pin_axis(result, axis, f"Reshape ({node.name}) to a computed length")


def _split_axis(source: ir.Value, merged: Moves, axes: Axes) -> Move | None:
    """The merged axis that carries labels, by ``axes.split_choice``; None where all are pinned.

    Copies give way: heads of keys, each repeated for the queries that share it, are cut by head.
    So do axes of length one, of which nothing can go: where all queries share one head of keys,
    its copies are cut.
    """
    unpinned = [move for move in merged if not axes.is_pinned(axes.of(source, move[0])).all()]
    wide = [move for move in unpinned if static_size(source, move[0]) != 1]
    channels = [move for move in wide if not axes.are_copies(axes.of(source, move[0])).all()]
    choices = channels or wide or unpinned
    axes.split_choices = max(axes.split_choices, len(choices))
    return choices[min(axes.split_choice, len(choices) - 1)] if choices else None


def can_shrink(node: ir.Node) -> bool:
    """Whether the node is still well defined once an axis is shorter.

    A Squeeze without axes drops whatever has come to be of length one; a target shape must be
    known entry by entry, so that it can be rewritten.
    """
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Squeeze":
        return given is not None or "axes" in node.attributes
    if node.op_type != "Reshape" or given is not None:
        return True
    if len(node.inputs) < 2:
        return False  # an attribute, before opset 5
    asked = entries(node.inputs[1])
    return asked is not None and len(asked) == len(rewritable(node.inputs[1]))


def _whole(source: ir.Value, sources: Moves) -> bool:
    """Dynamic axes may pass alone, never merged with others."""
    return len(sources) == 1 or all(static_size(source, axis) is not None for axis, *_ in sources)


def reshape_constants(node: ir.Node, facts: Facts) -> None:
    """Constants follow their channel."""
    source = node.inputs[0]
    _block_constants(node, facts)
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


def reshape_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Groups of channels of which all is known, the channels of such groups, flattened maps."""
    held, size = held_beside_constants(node, facts), static_size(node.outputs[0], 1)
    if held is None or not size or ([0], [0]) not in (runs(node) or []):
        return None
    target = constant_array(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is not None and target[0] not in (-1, 0, 1):
        return None  # of another batch than the one example
    if (1, 1) in blocks(node):
        if len(held) < size:
            return held.repeat(size // len(held))
        return np.asarray(held.reshape(size, -1).all(axis=1))
    ways = [
        (repeat, tile)
        for before, after, repeat, tile in moves(node) or []
        if (before, after) == (1, 1)
    ]
    return held.repeat(ways[0][0]) if ways and ways[0][1] == 1 else None


def edit_reshape(node: ir.Node, keep: Keep) -> None:
    """The target shape names fewer features.

    A zero, which copies the length of the source's axis at its index, is written out where either
    axis was cut: the two need not be the same channels.
    """
    if node.op_type != "Reshape" or len(node.inputs) < 2:
        return
    source, result = node.inputs[0], node.outputs[0]
    sizes = {}
    for axis, asked in enumerate(entries(node.inputs[1]) or []):
        mask, size = keep.of(result, axis), static_size(result, axis)
        copied = asked == 0 and keep.of(source, axis) is not None
        if size is not None and asked != -1 and (mask is not None or copied):
            sizes[axis] = size if mask is None else int(mask.sum())
    if sizes:
        retarget(node, 1, sizes)


def number_reshape(node: ir.Node, known: ValueNumbers) -> None:
    """An axis that passes, alone or flattened with others: each index by where it comes from."""
    source, result, passing = node.inputs[0], node.outputs[0], moves(node)
    if source is None or result.shape is None or source.shape is None or passing is None:
        return
    for after in range(rank(result) or 0):
        sources = [m for m in passing if m[1] == after and known.followed(source, m[0])]
        if len(sources) != 1 or not known.followed(result, after):
            continue
        before, _, repeat, tile = sources[0]
        classes = known.of(source, before)
        shapes = tuple(d if isinstance(d, int) else None for d in (*source.shape, *result.shape))
        where = known.one(("Reshape", shapes, rank(source), before, after))
        block = np.repeat(classes, repeat)
        offset = np.tile(np.arange(repeat), len(classes))
        keys = [
            (where, t, k, o)
            for t in range(tile)
            for k, o in zip(block.tolist(), offset.tolist(), strict=True)
        ]
        known.learn(result, after, keys)


def reorder_reshape(node: ir.Node, at: AxisOrder, _: Indices) -> list[AxisOrder] | None:
    """An axis that passes, or is flattened with axes behind it: whole blocks change places."""
    (value, axis, order), source, result = at, node.inputs[0], node.outputs[0]
    for before, after, repeat, tile in moves(node) or []:
        if source is None or tile != 1 or axis != (before if value is source else after):
            continue
        first = order if value is source else order[::repeat] // repeat
        blocks = (first[:, None] * repeat + np.arange(repeat)).reshape(-1)
        fits = len(first) == static_size(source, before)
        if fits and (value is source or np.array_equal(blocks, order)):
            return [(source, before, first), (result, after, blocks)]
    return None


_RESHAPE = Operator(
    "Reshape",
    couple=couple_reshape,
    constants=reshape_constants,
    maps=reshape_maps,
    moves_elements=True,
    number=number_reshape,
    reorder=reorder_reshape,
    edit=edit_reshape,
)

OPERATORS = (
    _RESHAPE,
    *(replace(_RESHAPE, name=name, edit=None) for name in ("Flatten", "Squeeze", "Unsqueeze")),
)
