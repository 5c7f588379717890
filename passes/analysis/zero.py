"""When is a weight zero?

Training leaves dead channels as tiny or denormal values (about 1e-41), never as exact zeros: a
weight under decay shrinks for ever. A weight counts as zero when its largest possible
contribution cannot change any float32 result of its row, the sum it belongs to:

* it is subnormal in float32, below 2**-126: against an activation as large as 2**64 it adds less
  than 2**-62, and many machines flush it to zero anyway. This takes it that nothing behind the
  layer multiplies by 1e30 or asks for a sign;
* or it is at most u**2 * s / n, where u = 2**-24 is float32's rounding unit, s the largest weight
  of the row and n the number of weights in it. Even if the channels read through all n such
  weights are 1/u times as large as the channel read through the largest one, which is as far
  apart as float32 can hold in one sum, together they add less than half a unit in the last place
  of that one product.

In float64 both bounds are those of float64. A user who knows more about the network can raise the
bound with ``--zero-threshold``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array

SUBNORMAL = 2.0**-126
UNIT = 2.0**-24


@dataclass(frozen=True)
class Zero:
    """The rule for what counts as zero; ``threshold`` is the user's, 0 leaves ours alone."""

    threshold: float = 0.0

    def bounds(self, sizes: Array) -> NDArray[np.float64]:
        """The largest magnitude that counts as zero in each row of ``sizes`` [rows, ...]."""
        flat = sizes.reshape(len(sizes), -1)
        double = sizes.dtype == np.float64
        unit = 2.0**-53 if double else UNIT
        # beside a weight that is infinite or no number, nothing is small
        largest = flat.max(axis=1, initial=0.0).astype(np.float64)
        largest = np.where(np.isfinite(largest), largest, 0.0)
        relative = unit * unit * largest / max(flat.shape[1], 1)
        subnormal = 2.0**-1022 if double else SUBNORMAL
        return np.asarray(np.maximum(relative, max(self.threshold, subnormal)))

    def scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Channel constants, with those that count as zero set to zero (NaN stays NaN)."""
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(values) <= max(self.threshold, SUBNORMAL), 0.0, values)
