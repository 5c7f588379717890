"""The ONNX operators that the sparse runtime knows: a function for each, by name."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer.importer import Importer
from prunedeploy.runtimes.sparse.importer.operators import (
    attention,
    indexing,
    layers,
    norms,
    quantised,
    recurrent,
    sampling,
    shapes,
    windows,
)
from prunedeploy.runtimes.sparse.importer.operators import elementwise as pointwise

TABLE: dict[str, Importer] = {
    **layers.TABLE,
    **windows.TABLE,
    **pointwise.TABLE,
    **norms.TABLE,
    **shapes.TABLE,
    **attention.TABLE,
    **recurrent.TABLE,
    **indexing.TABLE,
    **sampling.TABLE,
    **quantised.TABLE,
}

# the same where the runtime computes with bytes
BYTES: dict[str, Importer] = {**TABLE, **quantised.BYTES}
