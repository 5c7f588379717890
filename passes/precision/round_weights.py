"""Weights that a layer waits for, rounded to numbers that two bytes can hold.

A linear layer on a vector of features uses each weight once: the time is that of fetching them. The
sparse runtime stores weights that are all numbers of bfloat16 or float16 in two bytes and computes
in float32 (``runtimes/sparse/codegen/stored.py``). Checkpoints in half precision have such weights
from the beginning. This pass rounds those of others, to nearest, ties to even; they stay float32
in the model, and any runtime can run it. Not exact: ``lower`` measures what it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array, Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.axes import positions
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.operators.layers import Layer

FEW = 16  # uses of a weight a sample, from which on computing takes longer than fetching


@dataclass(frozen=True)
class RoundWeights:
    """Round the weights of linear layers and 1x1 convolutions on fewer than ``FEW`` positions.

    Of a dynamic batch one sample counts, of a fixed one all do. What a runtime multiplies weights
    with afterwards (a scale behind the layer) makes other numbers of them: run the default passes
    before, which fold it.

    Args:
        to: float16 keeps 11 bits of every number up to 65504, bfloat16 8 bits of any.
        keep: names of nodes, or of layers as notes name them, whose weights stay.
    """

    to: Literal["float16", "bfloat16"] = "float16"
    keep: frozenset[str] = frozenset()
    name: ClassVar[str] = "round-weights"
    exact: ClassVar[bool] = False

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        shapes.infer_shapes(model)
        layers = [layer for layer in layers_of(model.graph) if _is_narrow(layer)]
        if not layers:
            reason = f"no layer uses its weights on fewer than {FEW} positions"
            return PassResult(False, (Note("no-narrow-layer", "graph", "refused", reason, 0),))
        notes = [
            self._round(layer) for layer in layers if not {layer.node.name, layer.name} & self.keep
        ]
        reported = tuple(note for note in notes if note is not None)
        return PassResult(any(note.status == "taken" for note in reported), reported)

    def _round(self, layer: Layer) -> Note | None:
        tensor = layer.weight.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            reason = "weights are not stored as float32"
            return Note("not-float32", layer.name, "refused", reason, 0)
        if layer.scale != 1:
            reason = "weights are multiplied by the operator's alpha"
            return Note("scaled-weights", layer.name, "refused", reason, 0)
        if len(layer.weight.uses()) > 1 or layer.weight.is_graph_output():
            return Note("shared-weights", layer.name, "refused", "others read the same weights", 0)
        weight = tensor.numpy()
        rounded = to_float16(weight) if self.to == "float16" else to_bfloat16(weight)
        if not np.array_equal(np.isfinite(rounded), np.isfinite(weight)):
            reason = f"weights beyond the range of {self.to}"
            return Note("out-of-range", layer.name, "refused", reason, 0)
        changed = int(np.count_nonzero((rounded != weight) & ~np.isnan(weight)))
        if not changed:
            return None
        layer.weight.const_value = ir.tensor(rounded, name=tensor.name)
        models.release(tensor)
        reason = f"weights rounded to {self.to}"
        return Note("weights-rounded", layer.name, "taken", reason, changed)


def to_float16(weight: Array) -> Array:
    """The nearest numbers of float16, as float32."""
    with np.errstate(over="ignore"):
        return weight.astype(np.float16).astype(np.float32)


def to_bfloat16(weight: Array) -> Array:
    """The nearest numbers of bfloat16, as float32; NaN stays."""
    return weight.astype(ml_dtypes.bfloat16).astype(np.float32)


def _is_narrow(layer: Layer) -> bool:
    """Whether each weight is used a few times: on one position, or a few, of one group."""
    node, shape = layer.node, list(layer.result.shape or ())
    moved = any(node.attributes.get_ints("pads", [0])) or any(
        stride != 1 for stride in node.attributes.get_ints("strides", [1])
    )
    if layer.groups != 1 or layer.rows().shape[2] != 1 or moved or not shape:
        return False
    if node.op_type == "ConvTranspose":
        return False
    uses = positions(layer.result, layer.result_axis % len(shape))
    return uses is not None and uses < FEW
