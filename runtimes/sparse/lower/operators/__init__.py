"""What the sparse runtime knows: a function an ONNX operator, by its name."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.lower.importer import Importer
from prunedeploy.runtimes.sparse.lower.operators import (
    attention,
    layers,
    norms,
    pointwise,
    shapes,
    windows,
)

TABLE: dict[str, Importer] = {
    **layers.TABLE,
    **windows.TABLE,
    **pointwise.TABLE,
    **norms.TABLE,
    **shapes.TABLE,
    **attention.TABLE,
}
