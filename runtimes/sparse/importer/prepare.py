"""The passes that a model goes through before it is imported."""

from __future__ import annotations

import onnx_ir as ir


def prepare(model: ir.Model) -> ir.Model:
    """A copy with functions inlined, weights no inputs, nodes sorted, BatchNorm folded."""
    from onnx_ir.passes import common

    from prunedeploy.passes import FoldBatchNorm, FuseLayerNorm

    copy = model.clone()  # it shares the weights
    common.InlinePass()(copy)
    common.RemoveInitializersFromInputsPass()(copy)
    common.NameFixPass()(copy)
    common.TopologicalSortPass()(copy)
    operators = {node.op_type for node in copy.graph}
    if "BatchNormalization" in operators:
        FoldBatchNorm()(copy)
    if {"Sqrt", "ReduceMean"} <= operators:
        FuseLayerNorm()(copy)
    return copy
