"""When is a weight zero?

Training leaves dead channels as tiny or denormal values (about 1e-41), never as exact zeros: a
weight under decay shrinks for ever. A weight counts as zero when its largest possible
contribution cannot change any float32 result of its layer:

* it is subnormal in float32, below 2**-126: against an activation as large as 2**64 it adds less
  than 2**-62, far below the rounding of any sum that matters; many machines flush it to zero
  anyway;
* or it is at most u**2 * s / n, where u = 2**-24 is float32's rounding unit, s the largest weight
  of the layer and n the number of weights in one output's sum. Even if the channels read through
  all n such weights are 1/u times as large as the channel read through the largest one, which is
  as far apart as float32 can hold in one sum, together they add less than half a unit in the last
  place of that one product.

A user who knows more about the network can raise the bound with ``--zero-threshold``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.types import Array

SUBNORMAL = 2.0**-126
UNIT = 2.0**-24


@dataclass(frozen=True)
class Zero:
    """The rule for what counts as zero; ``threshold`` is the user's, 0 leaves ours alone."""

    threshold: float = 0.0

    def bound(self, weight: Array, terms: int) -> float:
        """The largest magnitude that counts as zero; ``terms`` is the length of the sums."""
        largest = float(max(weight.max(), -weight.min())) if weight.size else 0.0
        return max(self.threshold, SUBNORMAL, UNIT * UNIT * largest / max(terms, 1))

    def scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Channel constants, with those that count as zero set to zero (NaN stays NaN)."""
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(values) <= max(self.threshold, SUBNORMAL), 0.0, values)
