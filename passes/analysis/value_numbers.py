"""The classes of slices that value numbering (see ``value_numbering``) has found equal."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from hashlib import blake2b

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, Labels, static_size
from prunedeploy.passes.analysis.facts import constant_array

Classes = Labels


class ValueNumbers:
    """The classes of the axes of a graph, as far as anybody asked.

    Only axes that can be cut somewhere are followed; ``axes`` knows them.
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._classes: dict[tuple[ir.Value, int], Classes] = {}
        self._numbers: dict[Hashable, int] = {}
        self._count = 0

    def of(self, value: ir.Value, axis: int) -> Classes:
        """The classes along an axis of known length; new ones where nothing is known."""
        if (value, axis) not in self._classes:
            array = constant_array(value)
            if array is None:
                size = static_size(value, axis) or 0
                first, self._count = self._count, self._count + size
                self._classes[value, axis] = np.arange(first, self._count)
            else:
                rows = np.moveaxis(array, axis, 0)
                kind = ("initializer", array.dtype.str, rows.shape[1:])
                keys = [(kind, digest(row)) for row in rows]
                self._classes[value, axis] = self.number(keys)
        return self._classes[value, axis]

    def number(self, keys: Iterable[Hashable]) -> Classes:
        """The class of each key: the one it had before, or a new one."""
        classes = []
        for key in keys:
            if key not in self._numbers:
                self._numbers[key], self._count = self._count, self._count + 1
            classes.append(self._numbers[key])
        return np.array(classes, np.int64)

    def one(self, key: Hashable) -> int:
        """The number of one key, for what many keys have in common."""
        return int(self.number([key])[0])

    def learn(self, value: ir.Value, axis: int, keys: Iterable[Hashable]) -> None:
        """Number the slices of a result."""
        self._classes[value, axis] = self.number(keys)

    def pass_on(self, value: ir.Value, axis: int, classes: Classes) -> None:
        """Slices of a result that are slices of what it was made from."""
        self._classes[value, axis] = classes

    def followed(self, value: ir.Value, axis: int) -> bool:
        """Whether anything along the axis may be cut."""
        size = static_size(value, axis)
        return bool(size) and not self._axes.is_pinned(self._axes.of(value, axis)).all()

    def whole(self, value: ir.Value | None) -> Hashable:
        """A key for all of a value: itself, or what a small initializer holds."""
        array = constant_array(value)
        return value if array is None else (array.dtype.str, array.shape, digest(array))


def digest(array: Array) -> bytes:
    """Equal for arrays that hold the same bits; 16 bytes, so that no two others meet."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return blake2b(flat.view(np.uint8).data, digest_size=16).digest()


def signature(node: ir.Node) -> Hashable:
    """Operator and attributes; with a tensor or graph among them a node equals itself only."""
    values = []
    for name, attribute in sorted(node.attributes.items()):
        if isinstance(attribute.value, int | float | str | tuple | list):
            numbers = attribute.value
            values.append((name, tuple(numbers) if isinstance(numbers, list) else numbers))
        else:
            return node
    return node.op_type, tuple(values)
