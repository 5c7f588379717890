"""Facts about values before any input is seen: indices of an axis that hold one constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.graph.model import release
from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.zero import Zero

# One number an index: the constant that the whole slice at that index holds, NaN where it varies.
Constants = NDArray[np.float64]

# [channels, ...]: what each channel of a value holds for every input, NaN where it varies
Maps = NDArray[np.float64]

# elements; larger initializers are weights, never broadcast constants, and only of matrices
# (embeddings) is it looked up what their slices hold
SMALL = 1 << 22


class Facts:
    """Constants along the axes of values, and known maps; what is not recorded varies."""

    def __init__(self, zero: Zero) -> None:
        self.zero = zero
        self._known: dict[tuple[ir.Value, int], Constants] = {}
        self._maps: dict[ir.Value, Maps] = {}

    def of(self, value: ir.Value, axis: int) -> Constants | None:
        """The constants along ``axis``, None where nothing is known."""
        if (value, axis) not in self._known and value.const_value is not None:
            self._learn_initializer(value, axis)
        return self._known.get((value, axis))

    def along(self, value: ir.Value, axis: int) -> Constants:
        """The constants along ``axis``, NaN where they vary; empty for an axis of open length."""
        known = self.of(value, axis)
        return np.full(static_size(value, axis) or 0, np.nan) if known is None else known

    def learn(self, value: ir.Value, axis: int, constants: Constants | None) -> None:
        """Record what an operator's rule found; constants that count as zero become zero."""
        if constants is not None and not np.isnan(constants).all():
            self._known[value, axis] = self.zero.scalars(constants)

    def maps(self, value: ir.Value) -> Maps | None:
        """The known maps of channels that are not one constant; None where there is none."""
        return self._maps.get(value)

    def learn_maps(self, value: ir.Value, maps: Maps) -> None:
        """Record known maps, where there is any."""
        if not np.isnan(maps).all():
            self._maps[value] = maps

    def uniform(self, value: ir.Value) -> float | None:
        """The one number that the whole of an initializer holds, or None."""
        array = constant_array(value)
        if array is None or not array.size or array.dtype.kind not in "fiub":
            return None
        first = array.flat[0]
        return float(first) if array.size == 1 or (array == first).all() else None

    def aligned(self, value: ir.Value, axis: int, size: int) -> Constants | None:
        """Constants of ``value`` as it takes part, broadcast, along an axis of length ``size``."""
        constants = self.of(value, axis) if axis >= 0 and static_size(value, axis) == size else None
        if constants is None and (number := self.uniform(value)) is not None:
            constants = np.full(size, number)
        return constants

    def _learn_initializer(self, value: ir.Value, axis: int) -> None:
        tensor = value.const_value
        if tensor is None or not tensor.size or (tensor.size > SMALL and len(tensor.shape) != 2):
            return
        array = tensor.numpy()
        if array.dtype.kind in "fiub":
            self._known[value, axis] = _slices(array, axis)
        release(tensor)

    def axes(self, value: ir.Value) -> list[int]:
        """The axes of ``value`` along which something is known."""
        return [axis for axis in range(rank(value) or 0) if self.of(value, axis) is not None]


def _slices(array: Array, axis: int) -> Constants:
    """The number each slice of ``array`` along ``axis`` holds throughout, NaN where it varies.

    In chunks, and no further than the last slice that has not varied yet: embeddings are large.
    """
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)  # a view of a matrix
    numbers = rows[:, 0].astype(np.float64)
    left = np.flatnonzero(~np.isnan(numbers))
    step = max(1, SMALL // len(rows))
    for first in range(0, rows.shape[1], step):
        chunk = rows[left, first : first + step]
        varies = (chunk != rows[left, :1]).any(axis=1)
        numbers[left[varies]] = np.nan
        left = left[~varies]
        if not left.size:
            break
    return numbers


def constant_array(value: ir.Value | None) -> Array | None:
    """The array of a small initializer, None for anything computed, fed or large."""
    if value is None or value.const_value is None or value.const_value.size > SMALL:
        return None
    return value.const_value.numpy()
