"""Ranges of values: interval analysis, in one walk with the search for constants.

From the range stated for the network's inputs (any number where none is) each operator derives
the range of what it computes, one [low, high] for each index of one axis of each value. A ReLU
whose input never exceeds zero, or a Clip whose input never leaves one side, then holds a constant,
which goes into the facts like any other.

The ranges hold for what a machine computes, not for exact arithmetic: every result is widened by
a bound on its rounding, a sum of n products by gamma_n = n u / (1 - n u) times the sum of their
magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), which
covers every order of summation. What could overflow is unbounded. As everywhere here, the network
is taken to compute finite numbers: a NaN is in no range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import InputRange
from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array

Bounds = NDArray[np.float64]
Pair = tuple[Bounds, Bounds]

UNITS = {  # unit roundoff of each type
    ir.DataType.DOUBLE: 2.0**-53,
    ir.DataType.FLOAT: 2.0**-24,
    ir.DataType.FLOAT16: 2.0**-11,
    ir.DataType.BFLOAT16: 2.0**-8,
}
LARGEST = {  # a bound past half of the largest finite number may be infinity
    ir.DataType.DOUBLE: float(np.finfo(np.float64).max) / 2,
    ir.DataType.FLOAT16: 65504.0 / 2,
}
FLOAT_LARGEST = float(np.finfo(np.float32).max) / 2
MIN_NORMAL = 2.0**-126  # what may be lost when a product underflows; no smaller in any type but
# float16, whose bounds are kept off its subnormal numbers
HALF_SMALLEST = 2.0**-14

INTEGERS = {  # types that hold few numbers say by themselves what a value lies within
    ir.DataType.BOOL: (0.0, 1.0),
    ir.DataType.UINT8: (0.0, 255.0),
    ir.DataType.INT8: (-128.0, 127.0),
}


@dataclass(frozen=True)
class Range:
    """low <= x <= high, one pair for each index of ``axis``; one for all where it is None."""

    low: Bounds
    high: Bounds
    axis: int | None = None

    def hull(self) -> tuple[float, float]:
        """The smallest range around all indices."""
        return float(self.low.min(initial=np.inf)), float(self.high.max(initial=-np.inf))


def everywhere(low: float, high: float) -> Range:
    """The same range for the whole of a value."""
    return Range(np.array([low]), np.array([high]))


ANYTHING = everywhere(-np.inf, np.inf)


def widened(low: Bounds, high: Bounds, relative: float, scale: Bounds | float = 0.0) -> Pair:
    """The bounds moved outward by ``relative`` times their size, and times ``scale``.

    A bound of zero stays: a rounded product or sum of numbers of one sign keeps the sign.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        below = relative * (np.abs(low) + scale) + MIN_NORMAL * (low > 0)
        above = relative * (np.abs(high) + scale) + MIN_NORMAL * (high < 0)
        return low - below, high + above


def unit(value: ir.Value) -> float:
    """Unit roundoff of the value's type; float32's where the type is not known."""
    return UNITS.get(value.dtype or ir.DataType.FLOAT, 2.0**-24)


def gamma(count: int, roundoff: float) -> float:
    """Higham's gamma_n; infinite where n rounding errors could add up to everything."""
    product = count * roundoff
    return product / (1 - product) if product < 0.5 else np.inf


class Ranges:
    """The ranges of all values of a graph; what is not recorded follows from the type alone."""

    def __init__(self, graph: ir.Graph, stated: Mapping[str, InputRange] | None = None) -> None:
        self._known: dict[ir.Value, Range] = {}
        # (node, its result, axis, indices) of what was proved constant here and nowhere else
        self.proved: list[tuple[ir.Node, ir.Value, int, Mask]] = []
        for value in graph.inputs:
            input_range = (stated or {}).get(str(value.name))
            if input_range is not None and value.const_value is None:
                self._state(value, input_range)

    def _state(self, value: ir.Value, input_range: InputRange) -> None:
        low, high = np.array(input_range.low, np.float64), np.array(input_range.high, np.float64)
        # 0.1 as float32 is not 0.1, and may be a little less
        low, high = widened(low, high, 4 * unit(value))
        if len(low) > 1 and static_size(value, 1) != len(low):
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        self.learn(value, Range(low, high, 1 if len(low) > 1 else None))

    def of(self, value: ir.Value | None) -> Range:
        """The range of a value, computed, fed or stored."""
        if value is None:
            return ANYTHING
        if value in self._known:
            return self._known[value]
        if value.const_value is not None:
            return self._stored(value)
        if value.dtype in INTEGERS:
            return everywhere(*INTEGERS[value.dtype])
        return ANYTHING

    def along(self, value: ir.Value | None, axis: int, size: int) -> Pair:
        """The bounds of a value as it takes part, broadcast, along an axis of length ``size``."""
        if value is None:
            return np.full(size, -np.inf), np.full(size, np.inf)
        array = constant_array(value)
        long = array is not None and 0 <= axis < array.ndim and array.shape[axis] == size
        if array is not None and long and array.size and array.dtype.kind in "fiub":
            rows = np.moveaxis(array, axis, 0).reshape(size, -1).astype(np.float64)
            return rows.min(axis=1), rows.max(axis=1)
        known = self.of(value)
        if known.axis is not None and known.axis == axis and len(known.low) == size:
            return known.low, known.high
        low, high = known.hull()
        return np.full(size, low), np.full(size, high)

    def learn(self, value: ir.Value, derived: Range) -> None:
        """Record what a transfer function derived; what may overflow becomes unbounded."""
        limit = LARGEST.get(value.dtype or ir.DataType.FLOAT, FLOAT_LARGEST)
        with np.errstate(invalid="ignore"):
            low = np.where(np.abs(derived.low) <= limit, derived.low, -np.inf)
            high = np.where(np.abs(derived.high) <= limit, derived.high, np.inf)
        if value.dtype == ir.DataType.FLOAT16:  # steps between subnormal numbers are wide
            low = np.where((low > -HALF_SMALLEST) & (low < 0), -HALF_SMALLEST, low)
            low = np.where((low > 0) & (low < HALF_SMALLEST), 0.0, low)
            high = np.where((high > 0) & (high < HALF_SMALLEST), HALF_SMALLEST, high)
            high = np.where((high > -HALF_SMALLEST) & (high < 0), 0.0, high)
        if np.isfinite(low).any() or np.isfinite(high).any():
            self._known[value] = Range(low, high, derived.axis)

    def _stored(self, value: ir.Value) -> Range:
        array = constant_array(value)
        if array is None or not array.size or array.dtype.kind not in "fiub":
            return ANYTHING
        stored = everywhere(float(array.min()), float(array.max()))
        self.learn(value, stored)
        return stored

    def prove(self, node: ir.Node, facts: Facts) -> None:
        """Exchange what is certain with ``facts``: ranges of one number, and zeros known there."""
        for value in node.outputs:
            if value.dtype is None or not value.dtype.is_floating_point():
                continue
            bounds = self._known.get(value)
            if bounds is None or bounds.axis is None:
                bounds = self._broadcast(value, bounds, facts)
            if bounds is None or bounds.axis is None:
                continue
            known = facts.of(value, bounds.axis)
            known = np.full(len(bounds.low), np.nan) if known is None else known
            fixed = (bounds.low == bounds.high) & np.isnan(known)
            if fixed.any():
                self.proved.append((node, value, bounds.axis, fixed))
                known = np.where(fixed, bounds.low, known)
                facts.learn(value, bounds.axis, known)
            zero = known == 0
            low, high = np.where(zero, 0.0, bounds.low), np.where(zero, 0.0, bounds.high)
            self.learn(value, Range(low, high, bounds.axis))

    def _broadcast(self, value: ir.Value, bounds: Range | None, facts: Facts) -> Range | None:
        """One range for all as one a channel: where it is one number, or zeros are known."""
        low, high = (bounds or ANYTHING).hull()
        axes = range(rank(value) or 0)
        for axis in sorted(axes, key=lambda axis: axis != 1):  # channels first
            size, known = static_size(value, axis), facts.of(value, axis)
            if size and (low == high or (known is not None and (known == 0).any())):
                return Range(np.full(size, low), np.full(size, high), axis)
        return None
