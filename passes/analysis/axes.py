"""Which indices of which axes must be cut together: labels on axes, tied by union-find.

Every axis of every value carries one label an index. Indices with the same label (after ties)
are kept or cut as one: the label is a *channel* in the widest sense, all the places in all the
tensors where one feature of the network lives. A pinned label is never cut: the network's inputs
and outputs, and whatever an opaque operator touches.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]

INTERFACE = "part of the network's inputs or outputs"


class Axes:
    """The labels of all axes of a graph, the ties between them, and what pins them.

    Where an axis is split in parts, or several are merged, only one of them can carry labels:
    ``split_choice`` says which, and ``split_choices`` is how many the graph turned out to offer.
    """

    def __init__(self, split_choice: int = 0) -> None:
        self.split_choice = split_choice
        self.split_choices = 1
        self._parent = np.zeros(1024, np.int64)
        self._copies = np.zeros(1024, bool)  # by representative: nothing but copies so far
        self._count = 0
        self._labels: dict[tuple[ir.Value, int], Labels] = {}
        self._pins: dict[str, int] = {}  # what pins -> a label of its own
        self.pinned: dict[int, str] = {}  # representative of a pinned label -> what pins it
        self.asked: set[tuple[ir.Value, int]] = set()  # axes that a rule spoke of
        self.at = INTERFACE  # what pins where no reason is given: the operator being coupled

    def __len__(self) -> int:
        return self._count

    def fresh(self, size: int, copies: bool = False) -> Labels:
        """``size`` new labels, tied to nothing; ``copies`` of one another, where a value repeats.

        See ``are_copies``.
        """
        first, self._count = self._count, self._count + size
        if self._count > len(self._parent):
            self._parent = np.resize(self._parent, 2 * self._count)
            self._copies = np.resize(self._copies, 2 * self._count)
        self._parent[first : self._count] = np.arange(first, self._count)
        self._copies[first : self._count] = copies
        return np.arange(first, self._count)

    def find(self, labels: Labels) -> Labels:
        """The representative of each label."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if (above == roots).all():
                self._parent[labels] = roots
                return roots
            roots = above

    def tie(self, left: Labels, right: Labels) -> None:
        """Index by index, ``left`` and ``right`` are cut together from now on.

        Two that are pinned already are left apart, so that each keeps the name of what pins it.
        """
        if len(left) != len(right):
            raise ValueError(f"{len(left)} labels cannot be tied to {len(right)}")
        while True:
            one, other = self.find(left), self.find(right)
            apart = (one != other) & ~(self.is_pinned(one) & self.is_pinned(other))
            if not apart.any():
                return
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            # a root that is to go below several takes the smallest: the rest follow next time
            np.minimum.at(self._parent, high, low)
            np.logical_and.at(self._copies, self.find(high), self._copies[high])
            self._move_pins(high)

    def _move_pins(self, gone: Labels) -> None:
        """Move the pins of labels that are no representatives any more to the ones above."""
        if not self.pinned:
            return
        for root in {int(label) for label in gone}.intersection(self.pinned):
            why = self.pinned.pop(root)
            self.pinned.setdefault(int(self.find(np.array([root]))[0]), why)

    def has(self, value: ir.Value, axis: int) -> bool:
        """Whether the axis carries labels yet."""
        return (value, axis) in self._labels

    def of(self, value: ir.Value, axis: int) -> Labels:
        """The labels of one axis. An axis without any gets fresh ones; a dynamic one has none."""
        size = static_size(value, axis)
        if size is None:
            return np.zeros(0, np.int64)
        self.asked.add((value, axis))
        if (value, axis) not in self._labels:
            self._labels[value, axis] = self.fresh(size)
        return self._labels[value, axis]

    def roots(self, value: ir.Value, axis: int) -> Labels:
        """The representatives of the labels of one axis."""
        return self.find(self.of(value, axis))

    def assign(self, value: ir.Value, axis: int, labels: Labels) -> None:
        """Give an axis its labels; if it has some already, the two are tied.

        A dynamic axis cannot be cut, nor can what shares its labels: both are pinned.
        """
        size = static_size(value, axis)
        self.asked.add((value, axis))
        if size != len(labels):
            self.pin_labels(labels, "an axis of unknown length")
            if size is not None:
                self.pin_axis(value, axis, "an axis of unknown length")
        elif self.has(value, axis):
            self.tie(self._labels[value, axis], labels)
        else:
            self._labels[value, axis] = labels

    def share(self, source: ir.Value, result: ir.Value) -> None:
        """Give every axis of ``result`` the labels of the same axis of ``source``."""
        for axis in range(rank(source) or 0):
            self.assign(result, axis, self.of(source, axis))

    def is_pinned(self, labels: Labels) -> Mask:
        """True for labels that are never cut."""
        return np.isin(self.find(labels), np.fromiter(self.pinned, np.int64, len(self.pinned)))

    def are_copies(self, labels: Labels) -> Mask:
        """True for labels that stand for copies alone: no channel of the network is behind them."""
        return self._copies[self.find(labels)]

    def pin_labels(self, labels: Labels, why: str | None = None) -> None:
        """Never cut these; ``why`` names what is at fault, if it is not ``at``."""
        if len(labels):
            self.tie(labels, np.full(len(labels), self._pin(why or self.at)))

    def pin(self, value: ir.Value, why: str | None = None) -> None:
        """Never cut any axis of ``value``."""
        for axis in range(rank(value) or 0):
            self.pin_axis(value, axis, why)

    def pin_axis(self, value: ir.Value, axis: int, why: str | None = None) -> None:
        """Never cut this axis of ``value``."""
        size = static_size(value, axis)
        if size is not None:
            self.assign(value, axis, np.full(size, self._pin(why or self.at)))

    def _pin(self, name: str) -> int:
        if name not in self._pins:
            self._pins[name] = label = int(self.fresh(1)[0])
            self.pinned[label] = name
        return self._pins[name]

    def items(self) -> list[tuple[ir.Value, int, Labels]]:
        """Every labelled axis, with the representatives of its labels."""
        return [(value, axis, self.find(labels)) for (value, axis), labels in self._labels.items()]


def rank(value: ir.Value) -> int | None:
    """Number of dimensions, None where the shape is not known."""
    return None if value.shape is None else len(value.shape)


def same_length(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Two unnamed dimensions are equal as objects, and still may be any two numbers."""
    return one == other and (isinstance(one, int) or one.value is not None)


def positions(value: ir.Value, channel: int) -> int | None:
    """Numbers in one index of the axis ``channel``, for one sample of a dynamic batch.

    None where another size is open.
    """
    axes = [axis for axis in range(rank(value) or 0) if axis != channel]
    sizes = [static_size(value, axis) for axis in axes]
    if sizes and sizes[0] is None and axes[0] == 0:
        sizes[0] = 1
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def static_size(value: ir.Value, axis: int) -> int | None:
    """Length of an axis; None where it is dynamic or not known."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None
