"""The table of operators: one row each. To teach the pass an operator, add a row.

Operators with weights (Conv, ConvTranspose, Gemm, MatMul) have none here: ``layers.READERS``
reads them all into one form. An operator in neither table is a wall: whatever it touches stays,
so the result is exact, and a note names it.
"""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.operators import elementwise as pointwise
from prunedeploy.passes.operators import (
    joins,
    norms,
    products,
    quantised,
    recurrent,
    reductions,
    repeats,
    resizing,
    selections,
    shapes,
    sweeps,
    windows,
)
from prunedeploy.passes.operators import pixel_blocks as blocks
from prunedeploy.passes.operators.rule import Rule
from prunedeploy.reference.opsets import opset

_POINTWISE = Rule(pointwise.couple_elementwise, pointwise.elementwise_constants)
_JUMPING = Rule(pointwise.couple_elementwise)
_POOL = Rule(windows.couple_pool, windows.pool_constants)
_REDUCE = Rule(reductions.couple_reduce, reductions.reduce_constants, reads=reductions.needed)
_REDUCE_ODD = Rule(reductions.couple_reduce, reads=reductions.needed)  # of a constant: varies
_PRODUCT = Rule(products.couple_product, products.product_constants, reads=products.summed)
_RESHAPE = Rule(shapes.couple_reshape, shapes.reshape_constants)  # no shape is written down
_SELECT = Rule(
    selections.couple_selection, selections.selection_constants, selections.edit_selection
)
_GATHER = Rule(
    selections.couple_gather,
    selections.gather_constants,
    selections.edit_gather,
    selections.gathered,
)
_BLOCKS = Rule(blocks.couple_blocks, blocks.block_constants)
_RECURRENT = Rule(
    recurrent.couple_recurrent,
    recurrent.recurrent_constants,
    recurrent.edit_recurrent,
    layers=recurrent.inner_layers,
)
_EXTREME = Rule(sweeps.couple_sweep)  # positions say nothing of what is there
_SWEEP = Rule(sweeps.couple_sweep, sweeps.sweep_constants)
_SOFTMAX = Rule(pointwise.couple_softmax)
_NORM = Rule(norms.couple_norm, norms.norm_constants, norms.edit_norm, norms.norm_reads)
_STATISTICS = Rule(norms.couple_statistics, norms.statistics_constants)

RULES: dict[str, Rule] = {
    **dict.fromkeys(pointwise.ELEMENTWISE, _POINTWISE),
    **dict.fromkeys(pointwise.JUMPING, _JUMPING),
    "BatchNormalization": Rule(pointwise.couple_first, pointwise.batch_norm_constants),
    "Dropout": Rule(pointwise.couple_first, pointwise.first_constants),
    "InstanceNormalization": Rule(
        pointwise.couple_instance_norm, pointwise.instance_norm_constants
    ),
    "GroupNormalization": Rule(
        norms.couple_group_norm, norms.group_norm_constants, norms.edit_group_norm
    ),
    "LRN": _STATISTICS,
    "LayerNormalization": _NORM,
    "LpNormalization": Rule(
        norms.couple_lp_norm, norms.lp_norm_constants, reads=norms.lp_norm_reads
    ),
    "MeanVarianceNormalization": _STATISTICS,
    "RMSNormalization": _NORM,
    "Hardmax": _SOFTMAX,
    "LogSoftmax": _SOFTMAX,
    "Softmax": _SOFTMAX,
    "AveragePool": _POOL,
    "GlobalAveragePool": _POOL,
    "GlobalMaxPool": _POOL,
    "MaxPool": _POOL,
    "ReduceL1": _REDUCE,
    "ReduceL2": _REDUCE,
    "ReduceLogSum": _REDUCE_ODD,
    "ReduceLogSumExp": _REDUCE_ODD,
    "ReduceMax": _REDUCE,
    "ReduceMean": Rule(
        reductions.couple_reduce,
        reductions.reduce_constants,
        reductions.edit_reduce,
        reductions.needed,
    ),
    "ReduceMin": _REDUCE,
    "ReduceProd": _REDUCE_ODD,
    "ReduceSum": _REDUCE,
    "ReduceSumSquare": _REDUCE,
    **dict.fromkeys(sweeps.SWEEPS, _SWEEP),
    "ArgMax": _EXTREME,
    "ArgMin": _EXTREME,
    "Resize": Rule(resizing.couple_resize, resizing.resize_constants, resizing.edit_resize),
    "Upsample": Rule(resizing.couple_resize, resizing.resize_constants),
    # of two computed tensors; with known weights they are layers
    "Einsum": _PRODUCT,
    "Gemm": _PRODUCT,
    "MatMul": _PRODUCT,
    "Flatten": _RESHAPE,
    "Reshape": Rule(shapes.couple_reshape, shapes.reshape_constants, shapes.edit_reshape),
    "Squeeze": _RESHAPE,
    "Unsqueeze": _RESHAPE,
    "Transpose": Rule(shapes.couple_transpose, shapes.transpose_constants),
    "DepthToSpace": _BLOCKS,
    "SpaceToDepth": _BLOCKS,
    "ConstantOfShape": Rule(repeats.couple_filled, repeats.filled_constants, repeats.edit_filled),
    "Expand": Rule(repeats.couple_expand, repeats.expand_constants, repeats.edit_expand),
    "Tile": Rule(repeats.couple_tile, repeats.tile_constants, repeats.edit_tile),
    "Concat": Rule(joins.couple_concat, joins.concat_constants),
    "Gather": _GATHER,
    "GatherND": Rule(selections.couple_gather, selections.gather_constants),
    "Slice": _SELECT,
    "Split": _SELECT,
    "Pad": Rule(joins.couple_pad, joins.pad_constants, joins.edit_pad),
    "Shape": Rule(shapes.couple_shape),
    "Where": Rule(pointwise.couple_elementwise, pointwise.where_constants),
    "DequantizeLinear": Rule(quantised.couple_scaled, quantised.dequantised_constants),
    "QuantizeLinear": Rule(quantised.couple_scaled, quantised.quantised_constants),
    **dict.fromkeys(recurrent.GATES, _RECURRENT),
}


def rule(node: ir.Node) -> Rule | None:
    """The row for a node, None where there is none."""
    if node.domain not in ("", "ai.onnx") or _old_broadcasting(node):
        return None
    return RULES.get(node.op_type)


def _old_broadcasting(node: ir.Node) -> bool:
    """Before opset 7 operands were aligned by attributes, and a PRelu's slopes with axis 1."""
    named = "broadcast" in node.attributes or node.op_type == "PRelu"
    return opset(node) < 7 and named and node.op_type in pointwise.ELEMENTWISE + pointwise.JUMPING
