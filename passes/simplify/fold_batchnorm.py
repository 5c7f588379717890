"""BatchNormalization behind a convolution or linear layer, folded into its weights.

With a = scale / sqrt(var + epsilon) per output channel m:

    W'[m] = a[m] W[m],    b'[m] = a[m] (b[m] - mean[m]) + bias[m]

computed in float64 and rounded once. torch's exporter does this for networks in eval mode; other
exporters, and networks exported in training mode, leave the pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import graph_of, replace_input, replace_value
from prunedeploy.passes.operators.channelwise import EPSILON
from prunedeploy.passes.operators.layers import Layer, bias_rows
from prunedeploy.passes.operators.table import layer_of
from prunedeploy.reference.opsets import scales_channels


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold every BatchNormalization into the layer before it.

    Refuses where the layer's result has other readers, its weights are shared with another
    node, it has no bias (MatMul), its scale is not one (Gemm's alpha), or the normalisation's
    own parameters are computed.
    """

    name: ClassVar[str] = "fold-batchnorm"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        shapes.infer_shapes(model)
        notes: list[Note] = []
        for node in list(model.graph):
            if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
                continue
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            before = layer_of(producer) if producer is not None else None
            reason = _refuse(node, before)
            if reason is None and before is not None:
                _fold(node, before)
                what = "normalisation folded into weights"
                notes.append(Note("batchnorm-folded", before.name, "taken", what, 1))
            else:
                notes.append(Note("batchnorm-kept", node.name or "?", "refused", reason or "", 1))
        models.drop_unused(model.graph)
        return PassResult(any(note.status == "taken" for note in notes), tuple(notes))


def _refuse(node: ir.Node, before: Layer | None) -> str | None:
    """Why ``node`` cannot be folded into the layer before it; None when it can."""
    if before is None:
        return "no layer before the normalisation to fold it into"
    if not node.attributes.get_int("spatial", 1):
        return "its parameters are of every element"
    if not scales_channels(node):
        return "normalises with statistics of the batch"
    if any(constant_array(value) is None for value in node.inputs[1:5]):
        return "its parameters are not constants"
    if len(before.result.uses()) > 1 or before.result.is_graph_output():
        return "the layer's result has other readers"
    if before.weight.const_value is None:
        return "the layer's weights are quantised"
    if len(before.weight.uses()) > 1 or before.weight.is_graph_output():
        return "the layer's weights are shared"
    if before.bias_input is None or before.scale != 1.0 or before.result_axis != 1:
        return "the layer has no bias of its own"
    return None


def _fold(node: ir.Node, before: Layer) -> None:
    scale, bias, mean, var = (
        np.asarray(constant_array(value), np.float64) for value in node.inputs[1:5]
    )
    slope = scale / np.sqrt(var + node.attributes.get_float("epsilon", EPSILON))
    tensor = before.weight.const_value
    assert tensor is not None
    array = tensor.numpy()
    folded = np.empty_like(array)
    for group, factors in enumerate(slope.reshape(before.groups, -1)):
        source = before.group_of(array, group).astype(np.float64)
        along = factors.reshape(-1, *[1] * (array.ndim - 1))
        before.group_of(folded, group)[...] = source * along
    rows = slope * (bias_rows(before) - mean) + bias
    before.weight.const_value = ir.tensor(folded, name=before.weight.name)
    assert before.bias_input is not None
    replace_input(
        before.node, before.bias_input, rows.astype(array.dtype), f"{before.weight.name}.bias"
    )
    replace_value(node.outputs[0], before.result)
    graph_of(node).remove(node, safe=True)
