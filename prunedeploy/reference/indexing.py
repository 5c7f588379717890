"""Operators that pick elements by indices, write them by indices, or return indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference import table
from prunedeploy.reference.table import Numbers, along, has, integer, integers, listed, same, within

COMBINE: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _inside(indices: Numbers, size: int) -> Numbers:
    """Convert negative indices to indices from the front.

    Raises:
        IndexError: one of them is outside of an axis of ``size``.
    """
    wide = indices.astype(np.int64)
    if wide.size and not (-size <= wide.min() and wide.max() < size):
        raise IndexError(f"an index is outside of an axis of {size}")
    return np.where(wide < 0, wide + size, wide)


def _gather(node: ir.Node, x: Numbers, indices: Numbers) -> Numbers:
    axis = within(integer(node, "axis", 0), x.ndim)
    return x.take(_inside(indices, x.shape[axis]), axis)


def _gather_elements(node: ir.Node, x: Numbers, indices: Numbers) -> Numbers:
    """Axes other than ``axis`` may be shorter in ``indices``."""
    axis = within(integer(node, "axis", 0), x.ndim)
    part = tuple(slice(None if a == axis else n) for a, n in enumerate(indices.shape))
    return np.take_along_axis(x[part], _inside(indices, x.shape[axis]), axis)


def _gather_nd(node: ir.Node, x: Numbers, indices: Numbers) -> Numbers:
    """``batch_dims`` came with opset 12."""
    batch = integer(node, "batch_dims", 0)
    count = indices.shape[-1]
    positions: list[Any] = []
    outer = indices.shape[:-1]
    for axis in range(batch):
        positions.append(along(np.arange(x.shape[axis]), axis, len(outer)))
    positions += [_inside(indices[..., i], x.shape[batch + i]) for i in range(count)]
    gathered: Numbers = x[tuple(np.broadcast_arrays(*positions))] if positions else x
    return gathered


def _combined(node: ir.Node, y: Numbers, positions: Any, updates: Numbers) -> Numbers:
    """``updates`` written to ``positions``; a later update replaces an earlier one, or joins it."""
    how = table.text(node, "reduction", "none")
    if how == "none":
        y[positions] = updates
    elif how in COMBINE:
        COMBINE[how].at(y, positions, updates)
    else:
        raise ValueError(f"reduction {how!r} is not known")
    return y


def _scatter_elements(node: ir.Node, x: Numbers, indices: Numbers, updates: Numbers) -> Numbers:
    """``reduction`` came with opset 16, its max and min with 18."""
    axis = within(integer(node, "axis", 0), x.ndim)
    positions: list[Any] = list(np.indices(indices.shape, sparse=True))
    positions[axis] = _inside(indices, x.shape[axis])
    return _combined(node, x.copy(), tuple(np.broadcast_arrays(*positions)), updates)


def _scatter_nd(node: ir.Node, x: Numbers, indices: Numbers, updates: Numbers) -> Numbers:
    positions = tuple(_inside(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    return _combined(node, x.copy(), positions, updates)


def _tensor_scatter(
    node: ir.Node, past: Numbers, update: Numbers, write: Numbers | None = None
) -> Numbers:
    axis = within(integer(node, "axis", -2), past.ndim)
    first = np.zeros(len(past), np.int64) if write is None else write
    y, size, count = past.copy(), past.shape[axis], update.shape[axis]
    for sample, start in enumerate(listed(first)):
        rows = start + np.arange(count)
        if table.text(node, "mode", "linear") == "circular":
            rows %= size
        np.moveaxis(y[sample], axis - 1, 0)[rows] = np.moveaxis(update[sample], axis - 1, 0)
    return y


def _top(node: ir.Node, x: Numbers, count: int, largest: bool) -> tuple[Numbers, Numbers]:
    """Sort; of equal elements the one with the lower index comes first."""
    axis = within(integer(node, "axis", -1), x.ndim)
    if count > x.shape[axis]:
        raise ValueError(f"k is {count}, the axis has {x.shape[axis]}")
    if largest:  # the order of the mirrored array's ascending sort, mirrored
        order = x.shape[axis] - 1 - np.flip(np.flip(x, axis).argsort(axis, kind="stable"), axis)
    else:
        order = x.argsort(axis, kind="stable")
    chosen = order.take(range(count), axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)


def _top_attribute(node: ir.Node, x: Numbers) -> tuple[Numbers, Numbers]:
    return _top(node, x, integer(node, "k", 0), largest=True)


def _top_input(node: ir.Node, x: Numbers, k: Numbers) -> tuple[Numbers, Numbers]:
    return _top(node, x, int(k.reshape(())), largest=True)


def _top_either(node: ir.Node, x: Numbers, k: Numbers) -> tuple[Numbers, Numbers]:
    """Where ``sorted`` is 0 any order will do; it is the sorted one here."""
    return _top(node, x, int(k.reshape(())), bool(integer(node, "largest", 1)))


def _unique(node: ir.Node, x: Numbers) -> tuple[Numbers, ...]:
    axis = within(integer(node, "axis", 0), x.ndim) if has(node, "axis") else None
    y, first, inverse, counts = np.unique(
        x if axis is not None else x.reshape(-1),
        return_index=True,
        return_inverse=True,
        return_counts=True,
        axis=axis,
    )
    if not integer(node, "sorted", 1):
        order = first.argsort()
        y = y.take(order, axis or 0)
        first, counts = first[order], counts[order]
        inverse = order.argsort()[inverse]
    return y, *(indices.reshape(-1).astype(np.int64) for indices in (first, inverse, counts))


def _one_hot(negative: bool) -> table.Kernel:
    """``negative``: indices count from the back below zero, as they do from opset 11 on."""

    def run(node: ir.Node, indices: Numbers, depth: Numbers, values: Numbers) -> Any:
        count, whole = int(depth.reshape(())), indices.astype(np.int64)
        if negative:
            whole = np.where(whole < 0, whole + count, whole)
        axis = within(integer(node, "axis", -1), indices.ndim + 1)
        at = np.expand_dims(whole, axis)
        return np.where(at == along(np.arange(count), axis, at.ndim), values[1], values[0])

    return run


def _compress(node: ir.Node, x: Numbers, condition: Numbers) -> Any:
    axis = within(integer(node, "axis", 0), x.ndim) if has(node, "axis") else None
    flat = x if axis is not None else x.reshape(-1)
    kept = np.flatnonzero(condition)
    return flat.take(kept[kept < flat.shape[axis or 0]], axis or 0)


def _non_zero(_: ir.Node, x: Numbers) -> Numbers:
    if not x.ndim:
        return np.zeros((0, int(x != 0)), np.int64)
    truth = x.astype(bool) if x.dtype.kind not in "fiub" else x
    return np.array(np.nonzero(truth), np.int64).reshape(x.ndim, -1)


def _bounds(size: int, start: int, end: int, step: int) -> range:
    """The indices of a slice; ends far out are cut to the axis before they count."""
    start, end = (n + size if n < 0 else n for n in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    if step < 0:
        return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)
    raise ValueError("a slice by steps of 0")


def sliced(
    x: Numbers, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> Any:
    """Every ``step`` elements from start to end, axis by axis."""
    positions: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        along = within(axis, x.ndim)
        chosen = _bounds(x.shape[along], start, end, step)
        last = None if chosen.stop < 0 else chosen.stop
        positions[along] = slice(chosen.start, last, step) if chosen else slice(0)
    return x[tuple(positions)]


def _slice_attributes(node: ir.Node, x: Numbers) -> Any:
    starts, ends = integers(node, "starts"), integers(node, "ends")
    axes = integers(node, "axes", list(range(len(starts))))
    return sliced(x, starts, ends, axes, [1] * len(starts))


def _slice(
    _: ir.Node,
    x: Numbers,
    starts: Numbers,
    ends: Numbers,
    axes: Numbers | None = None,
    steps: Numbers | None = None,
) -> Any:
    first = listed(starts)
    along = list(range(len(first))) if axes is None else listed(axes)
    every = [1] * len(first) if steps is None else listed(steps)
    return sliced(x, first, listed(ends), along, every)


def _reverse_sequence(node: ir.Node, x: Numbers, lengths: Numbers) -> Numbers:
    batch, time = integer(node, "batch_axis", 1), integer(node, "time_axis", 0)
    if {batch, time} != {0, 1}:
        raise ValueError(f"batch_axis {batch} and time_axis {time}")
    y = x.copy()
    for sample, length in enumerate(listed(lengths)):
        if not 0 <= length <= x.shape[time]:
            raise ValueError(f"a sequence of {length} out of {x.shape[time]}")
        position = (sample, slice(length)) if batch == 0 else (slice(length), sample)
        y[position] = x[position][::-1]
    return y


TABLE: table.Table = {
    "Compress": same(_compress, 9, 11, 28),
    "Gather": same(_gather, 1, 11, 13),
    "GatherElements": same(_gather_elements, 11, 13),
    "GatherND": same(_gather_nd, 11, 12, 13),
    "NonZero": same(_non_zero, 9, 13),
    "OneHot": same(_one_hot(negative=False), 9) | same(_one_hot(negative=True), 11, 28),
    "ReverseSequence": same(_reverse_sequence, 10, 28),
    "Scatter": same(_scatter_elements, 9) | table.withdrawn(11),
    "ScatterElements": same(_scatter_elements, 11, 13, 16, 18),
    "ScatterND": same(_scatter_nd, 11, 13, 16, 18),
    "Slice": same(_slice_attributes, 1) | same(_slice, 10, 11, 13),
    "TensorScatter": same(_tensor_scatter, 24),
    "TopK": same(_top_attribute, 1) | same(_top_input, 10) | same(_top_either, 11, 24),
    "Unique": same(_unique, 11, 28),
}
