"""(operator, opset) -> how a node of that version becomes one, or several, of the opset before.

A rule edits its node in place or replaces it, and returns None; or it returns why it cannot, and
leaves the node alone. What it writes is in the form of the opset before, which later steps lower
further. ``DEFINED`` are operators that the specification defines by others in full, whose
definition is inserted as it stands.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from prunedeploy.passes.opset import decompose, forms
from prunedeploy.passes.opset.emit import Emit

Rule = Callable[[ir.Node, Emit], str | None]

RULES: dict[tuple[str, int], Rule] = {
    ("BitShift", 28): forms.bit_shift,
    ("Mod", 28): forms.remainder,
    ("Swish", 24): decompose.swish,
    ("RMSNormalization", 23): decompose.rms_norm,
    ("DequantizeLinear", 23): forms.dequantize_type,
    ("AveragePool", 22): forms.pool,
    ("MaxPool", 22): forms.pool,
    ("GroupNormalization", 21): decompose.group_norm,
    ("QuantizeLinear", 21): forms.quantize_type,
    ("DFT", 20): forms.fourier,
    ("Gelu", 20): decompose.gelu,
    ("GridSample", 20): forms.grid_sample,
    ("AveragePool", 19): forms.pool,
    ("Cast", 19): forms.cast,
    ("Pad", 19): forms.pad_mode,
    ("Resize", 19): forms.resize_mode,
    ("GroupNormalization", 18): decompose.group_norm_by_groups,
    ("Mish", 18): decompose.mish,
    ("Pad", 18): forms.pad_some_axes,
    ("Resize", 18): forms.resize_some_axes,
    ("ScatterElements", 18): forms.scatter,
    ("ScatterND", 18): forms.scatter,
    ("Split", 18): forms.split_in_parts,
    ("LayerNormalization", 17): decompose.layer_norm,
    ("RoiAlign", 16): forms.roi_align,
    ("CastLike", 15): forms.cast_like,
    ("Shape", 15): forms.shape,
    ("HardSwish", 14): decompose.hard_swish,
    ("Reshape", 14): forms.reshape,
    ("Trilu", 14): decompose.trilu,
    ("DequantizeLinear", 13): forms.per_tensor,
    ("Hardmax", 13): forms.over_last_axis,
    ("LogSoftmax", 13): forms.over_last_axis,
    ("QuantizeLinear", 13): forms.per_tensor,
    ("ReduceSum", 13): forms.reduction,
    ("Resize", 13): forms.resize_all_inputs,
    ("Softmax", 13): forms.over_last_axis,
    ("Split", 13): forms.split_attribute,
    ("Squeeze", 13): forms.axes_attribute,
    ("Unsqueeze", 13): forms.axes_attribute,
    ("Celu", 12): decompose.celu,
    ("Constant", 12): forms.constant_value,
    ("Dropout", 12): forms.dropout,
    ("GreaterOrEqual", 12): decompose.or_equal,
    ("LessOrEqual", 12): decompose.or_equal,
    ("Pow", 12): forms.power,
    **{
        (f"Reduce{name}", 18): forms.reduction
        for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
    },
}

DEFINED: dict[int, frozenset[str]] = {
    28: frozenset({"SwiGLU"}),
    27: frozenset({"CausalConvWithState", "LinearAttention"}),
    23: frozenset({"Attention", "RotaryEmbedding"}),
    18: frozenset({"CenterCropPad"}),
    17: frozenset({"BlackmanWindow", "HammingWindow", "HannWindow"}),
}

# New operators without a definition in older ones: a model that has one stays at this opset.
NO_OLDER_FORM: dict[int, frozenset[str]] = {
    26: frozenset({"BitCast", "CumProd"}),
    24: frozenset({"TensorScatter"}),
    20: frozenset({"AffineGrid", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"}),
    19: frozenset({"DeformConv"}),
    18: frozenset({"BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Col2Im"}),
    17: frozenset({"DFT", "MelWeightMatrix", "STFT", "SequenceMap"}),
    16: frozenset({"GridSample"}),
    15: frozenset({"Bernoulli", "Optional", "OptionalGetElement", "OptionalHasElement"}),
    12: frozenset({"Einsum", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}),
}
