"""The table of operators: one row each. To teach the pass an operator, add a row.

Operators with weights (Conv, ConvTranspose, Gemm, MatMul) have none here: ``layers.READERS``
reads them all into one form. An operator in neither table is a wall: whatever it touches stays,
so the result is exact, and a note names it.
"""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.shrink import joins, pointwise, products, selections, shapes, windows
from prunedeploy.passes.shrink.rule import Rule

_POINTWISE = Rule(pointwise.couple_elementwise, pointwise.elementwise_constants)
_JUMPING = Rule(pointwise.couple_elementwise)
_POOL = Rule(windows.couple_pool, windows.pool_constants)
_REDUCE = Rule(windows.couple_reduce, windows.reduce_constants)
_PRODUCT = Rule(products.couple_product, products.product_constants)
_RESHAPE = Rule(shapes.couple_reshape, shapes.reshape_constants, shapes.edit_reshape)
_SELECT = Rule(
    selections.couple_selection, selections.selection_constants, selections.edit_selection
)
_GATHER = Rule(selections.couple_gather, selections.gather_constants, selections.edit_gather)
_NORMALISE = Rule(pointwise.couple_softmax)

RULES: dict[str, Rule] = {
    **dict.fromkeys(pointwise.ELEMENTWISE, _POINTWISE),
    **dict.fromkeys(pointwise.JUMPING, _JUMPING),
    "BatchNormalization": Rule(pointwise.couple_first, pointwise.batch_norm_constants),
    "Dropout": Rule(pointwise.couple_first, pointwise.first_constants),
    "InstanceNormalization": Rule(
        pointwise.couple_instance_norm, pointwise.instance_norm_constants
    ),
    "LayerNormalization": _NORMALISE,
    "LogSoftmax": _NORMALISE,
    "RMSNormalization": _NORMALISE,
    "Softmax": _NORMALISE,
    "AveragePool": _POOL,
    "GlobalAveragePool": _POOL,
    "GlobalMaxPool": _POOL,
    "MaxPool": _POOL,
    "ReduceL1": _REDUCE,
    "ReduceL2": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceMin": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceSumSquare": _REDUCE,
    "Resize": Rule(windows.couple_resize, windows.resize_constants),
    "Upsample": Rule(windows.couple_resize, windows.resize_constants),
    # of two computed tensors; with known weights they are layers
    "Einsum": _PRODUCT,
    "Gemm": _PRODUCT,
    "MatMul": _PRODUCT,
    "Flatten": _RESHAPE,
    "Reshape": _RESHAPE,
    "Squeeze": _RESHAPE,
    "Unsqueeze": _RESHAPE,
    "Transpose": Rule(shapes.couple_transpose, shapes.transpose_constants),
    "Concat": Rule(joins.couple_concat, joins.concat_constants),
    "Gather": _GATHER,
    "GatherND": _GATHER,
    "Slice": Rule(
        selections.couple_slice, selections.selection_constants, selections.edit_selection
    ),
    "Split": _SELECT,
    "Pad": Rule(joins.couple_pad, joins.pad_constants, joins.edit_pad),
    "Shape": Rule(shapes.couple_shape),
    "Where": Rule(pointwise.couple_elementwise, pointwise.where_constants),
}


def rule(node: ir.Node) -> Rule | None:
    """The row for a node, None where there is none."""
    return RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
