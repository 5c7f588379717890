"""Weights as they are stored: in half of the bytes where nothing is lost by it.

A layer that uses each weight on a few pixels alone waits for its weights. Where all of them are
numbers of bfloat16 or of float16, as those of checkpoints in half precision are, they are stored so
and widened to float32 in registers (``c/narrow.h``), which is exact: the layer computes what it
would compute with float32 weights, to the last bit. ``passes.RoundWeights`` makes such numbers.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np

from prunedeploy.core.records import Array

Stored = Literal["float32", "bfloat16", "float16"]
NARROW: dict[Stored, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
C_TYPE: dict[Stored, str] = {"float32": "float", "bfloat16": "uint16_t", "float16": "uint16_t"}
LONGEST = 2**16  # columns that 16 bits can say


def kind_of(weights: Array) -> Stored:
    """The smallest type that has every one of float32 ``weights``, the one sooner widened first."""
    for kind, dtype in NARROW.items():
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = weights.astype(dtype)
        same = narrow.astype(np.float32).tobytes() == weights.astype(np.float32).tobytes()
        if same and (kind == "bfloat16" or np.isfinite(weights).all()):  # as widen.h has them
            return kind
    return "float32"


def stored(weights: Array, kind: Stored) -> Array:
    """``weights`` in ``kind``, the bits of narrow ones as uint16; their values are not changed."""
    if kind == "float32":
        return weights.astype(np.float32)
    return np.ascontiguousarray(weights.astype(NARROW[kind])).view(np.uint16)


def index_type(count: int) -> str:
    """The C type that holds indices below ``count``."""
    return "uint16_t" if count <= LONGEST else "uint32_t"


def indices_of(columns: Array, count: int) -> Array:
    """Indices below ``count`` in that type."""
    return columns.astype(index_type(count).removesuffix("_t"))
