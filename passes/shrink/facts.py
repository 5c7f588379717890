"""What is known of a value before any input is seen: indices of an axis that hold one constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.shrink.axes import rank, static_size
from prunedeploy.passes.shrink.zero import Zero
from prunedeploy.types import Array

# One number an index: the constant that the whole slice at that index holds, NaN where it varies.
Constants = NDArray[np.float64]

SMALL = 1 << 22  # elements; larger initializers are weights, never broadcast constants


class Facts:
    """Constants along the axes of values; what is not recorded varies."""

    def __init__(self, zero: Zero) -> None:
        self.zero = zero
        self._known: dict[tuple[ir.Value, int], Constants] = {}

    def of(self, value: ir.Value, axis: int) -> Constants | None:
        """The constants along ``axis``, None where nothing is known."""
        if (value, axis) not in self._known and value.const_value is not None:
            self._learn_initializer(value, axis)
        return self._known.get((value, axis))

    def learn(self, value: ir.Value, axis: int, constants: Constants | None) -> None:
        """Record what an operator's rule found; constants that count as zero become zero."""
        if constants is not None and not np.isnan(constants).all():
            self._known[value, axis] = self.zero.scalars(constants)

    def uniform(self, value: ir.Value) -> float | None:
        """The one number that the whole of an initializer holds, or None."""
        array = constant_array(value)
        if array is None or not array.size or array.dtype.kind not in "fiub":
            return None
        first = array.flat[0]
        return float(first) if array.size == 1 or (array == first).all() else None

    def aligned(self, value: ir.Value, axis: int, size: int) -> Constants | None:
        """Constants of ``value`` as it takes part, broadcast, along an axis of length ``size``."""
        found = self.of(value, axis) if axis >= 0 and static_size(value, axis) == size else None
        if found is None and (number := self.uniform(value)) is not None:
            found = np.full(size, number)
        return found

    def _learn_initializer(self, value: ir.Value, axis: int) -> None:
        array = constant_array(value)
        if array is None or array.dtype.kind not in "fiub" or not array.size:
            return
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        varies = (rows != rows[:, :1]).any(axis=1)
        self._known[value, axis] = np.where(varies, np.nan, rows[:, 0].astype(np.float64))

    def axes(self, value: ir.Value) -> list[int]:
        """The axes of ``value`` along which something is known."""
        return [axis for axis in range(rank(value) or 0) if self.of(value, axis) is not None]


def constant_array(value: ir.Value | None) -> Array | None:
    """The array of a small initializer, None for anything computed, fed or large."""
    if value is None or value.const_value is None or value.const_value.size > SMALL:
        return None
    return value.const_value.numpy()
