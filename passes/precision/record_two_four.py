"""Which layers have at most two non-zeros in every four, on record in the model's metadata.

Sparse tensor cores (NVIDIA's from Ampere on) skip half of the multiplications of weights in which
each aligned group of four input channels has at most two that are not zero (Mishra et al.,
"Accelerating Sparse Deep Neural Networks", 2021). A runtime that can use them has to be told to:
whoever builds an engine reads ``two_four`` and decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import shapes
from prunedeploy.graph.sparsity import measure
from prunedeploy.passes.analysis.liveness import layers_of

KEY = "prunedeploy.two_four"


@dataclass(frozen=True)
class RecordTwoFour:
    """Record the names of the layers whose weights have the 2:4 pattern throughout.

    A layer without a non-zero, or with fewer than four input channels in a group, has none.
    """

    name: ClassVar[str] = "record-two-four"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit the metadata of ``model``; the graph stays."""
        shapes.infer_shapes(model)
        notes = []
        for layer in layers_of(model.graph):
            pattern = measure(layer.rows(), layer.groups)
            if pattern.two_four == 1.0 and pattern.nonzero:
                reason = "at most two non-zeros in every four input channels"
                notes.append(Note("two-four", layer.name, "taken", reason, pattern.nonzero))
        text = json.dumps([note.where for note in notes])
        changed = bool(notes) and model.metadata_props.get(KEY) != text
        if changed:
            model.metadata_props[KEY] = text
        elif not notes:
            changed = model.metadata_props.pop(KEY, None) is not None
        return PassResult(changed, tuple(notes))


def two_four(model: ir.Model) -> tuple[str, ...]:
    """The layers that are on record; none where a stranger wrote something else there."""
    try:
        return tuple(map(str, json.loads(model.metadata_props.get(KEY, "[]"))))
    except (ValueError, TypeError, RecursionError):
        return ()
