"""Sequences, which are lists of arrays, and optional values, which may be None."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Numbers, Table, integer, listed, same, within


def _index(position: Any, count: int) -> int:
    where = int(np.asarray(position).reshape(()))
    if not -count <= where < count:
        raise IndexError(f"position {where} of {count}")
    return where % count


def _at(_: ir.Node, values: list[Any], position: Numbers) -> Any:
    return values[_index(position, len(values))]


def _construct(_: ir.Node, *values: Any) -> tuple[Any, ...]:
    return (list(values),)


def _erase(_: ir.Node, values: list[Any], position: Numbers | None = None) -> tuple[Any, ...]:
    gone = len(values) - 1 if position is None else _index(position, len(values))
    return ([*values[:gone], *values[gone + 1 :]],)


def _insert(
    _: ir.Node, values: list[Any], value: Any, position: Numbers | None = None
) -> tuple[Any, ...]:
    """Insert before ``position``, which may be the end; at the end where it is left out."""
    count = len(values)
    where = count if position is None else int(position.reshape(()))
    if not -count <= where <= count:
        raise IndexError(f"position {where} of {count}")
    where = where + count if where < 0 else where
    return ([*values[:where], value, *values[where:]],)


def _length(_: ir.Node, values: list[Any]) -> Numbers:
    return np.array(len(values), np.int64)


def _concat(node: ir.Node, values: list[Any]) -> Numbers:
    axis, fresh = integer(node, "axis", 0), integer(node, "new_axis", 0)
    rank = values[0].ndim + bool(fresh)
    axis = within(axis, rank)
    return np.stack(values, axis) if fresh else np.concatenate(values, axis)


def _split(node: ir.Node, x: Numbers, split: Numbers | None = None) -> tuple[Any, ...]:
    """Split; without sizes every index is a part of its own, its axis removed unless ``keepdims``.

    Beside sizes ONNX has ``keepdims`` ignored, which engines do not do: 0 is refused there.
    """
    axis = within(integer(node, "axis", 0), x.ndim)
    size = x.shape[axis]
    if split is None:
        parts = np.split(x, size, axis)
        return (parts if integer(node, "keepdims", 1) else [p.squeeze(axis) for p in parts],)
    if not integer(node, "keepdims", 1):
        raise ValueError("keepdims 0 beside the sizes of the parts")
    if split.ndim:
        sizes = listed(split)
        if sum(sizes) != size:
            raise ValueError(f"parts of {sizes} out of {size}")
    else:
        each = int(split)
        if each < 1:
            raise ValueError(f"parts of {each}")
        sizes = [min(each, size - i) for i in range(0, size, each)]
    return (np.split(x, np.cumsum(sizes)[:-1].tolist(), axis),)


def _optional(_: ir.Node, value: Any = None) -> tuple[Any, ...]:
    return (value,)


def _element(_: ir.Node, value: Any) -> tuple[Any, ...]:
    if value is None:
        raise ValueError("an optional value that is empty has no element")
    return (value,)


def _has_element(_: ir.Node, value: Any = None) -> Numbers:
    return np.array(value is not None)


TABLE: Table = {
    "ConcatFromSequence": same(_concat, 11),
    "Optional": same(_optional, 15, 28),
    "OptionalGetElement": same(_element, 15, 18, 28),
    "OptionalHasElement": same(_has_element, 15, 18, 28),
    "SequenceAt": same(_at, 11),
    "SequenceConstruct": same(_construct, 11),
    "SequenceEmpty": same(_construct, 11),
    "SequenceErase": same(_erase, 11),
    "SequenceInsert": same(_insert, 11),
    "SequenceLength": same(_length, 11),
    "SplitToSequence": same(_split, 11, 24),
}
