"""Every operator of ONNX in every version and form: nodes with inputs, to be run in two ways."""

from __future__ import annotations

# the tables of forms register themselves
from forms import (
    elementwise,
    indexing,
    norms,
    others,
    quantised,
    ranks,
    reductions,
    resizing,
    shapes,
    windows,
)

__all__ = (
    "elementwise",
    "indexing",
    "norms",
    "others",
    "quantised",
    "ranks",
    "reductions",
    "resizing",
    "shapes",
    "windows",
)
