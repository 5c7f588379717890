"""How each operator of the shrink pass's tables is grown: one row an operator, in one table.

A generator takes the net and the operator's name, reads values that ``layered`` made, and adds
what it computes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import grow_layers
import grow_moves
import grow_pointwise
import grow_shapes
import grow_windows
import numpy as np
import onnx_ir as ir
from old_forms import NotThereError, available
from random_graph import RandomGraph

Generator = Callable[[RandomGraph, str], object]

BINARY = ("Add", "Div", "Mod", "Mul", "Pow", "Sub")
UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Cos"),
    *("Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu"),
)
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
GENERATORS: dict[str, Generator] = {
    **dict.fromkeys(UNARY, grow_pointwise.unary),
    **dict.fromkeys(BINARY, grow_pointwise.binary),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), grow_pointwise.variadic),
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), grow_pointwise.comparison
    ),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), grow_pointwise.logical),
    **dict.fromkeys(("IsInf", "IsNaN"), grow_pointwise.is_something),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), grow_windows.layer_norm),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), grow_windows.softmax),
    **dict.fromkeys(("LRN", "MeanVarianceNormalization"), grow_windows.statistics_norm),
    **dict.fromkeys(("AveragePool", "MaxPool"), grow_windows.pool),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), grow_windows.global_pool
    ),
    **dict.fromkeys(REDUCTIONS, grow_windows.reduction),
    **dict.fromkeys(("Resize", "Upsample"), grow_windows.resize),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), grow_shapes.squeeze),
    **grow_moves.GENERATORS,
    "BatchNormalization": grow_windows.batch_norm,
    "BitShift": grow_pointwise.bit_shift,
    "CastLike": grow_pointwise.cast_like,
    "Clip": grow_pointwise.clip,
    "Concat": grow_shapes.concat,
    "Conv": grow_layers.conv,
    "ConvTranspose": grow_layers.transposed_conv,
    "Einsum": grow_layers.einsum,
    "Flatten": grow_shapes.flatten,
    "Gather": grow_shapes.gather,
    "GatherND": grow_shapes.gather_nd,
    "Gemm": grow_layers.gemm,
    "GroupNormalization": grow_windows.group_norm,
    "InstanceNormalization": grow_windows.instance_norm,
    "LpNormalization": grow_windows.lp_norm,
    "MatMul": grow_layers.matmul,
    "PRelu": grow_pointwise.prelu,
    "Pad": grow_shapes.pad,
    "Reshape": grow_shapes.reshape,
    "Shape": grow_shapes.shape_of,
    "Slice": grow_shapes.slice_,
    "Split": grow_shapes.split,
    "Transpose": grow_shapes.transpose,
    "Where": grow_pointwise.where,
}

OPSET = {"Upsample": 9, "GroupNormalization": 21, "RMSNormalization": 23, "Swish": 24}


def grow(
    choose: random.Random,
    focus: str | None = None,
    opset: int | None = None,
    dtype: type = np.float64,
) -> ir.Model:
    """A random network of two to six operators; ``focus`` is among them where it is given."""
    opset = opset or OPSET.get(focus or "", 20)
    others = [op for op in GENERATORS if available(op, opset)]
    chosen = [choose.choice(others) for _ in range(choose.randint(1, 5))]
    chosen.insert(choose.randrange(len(chosen) + 1), focus or choose.choice(others))
    net = RandomGraph(choose, opset, fixed=focus == "GatherND", dtype=dtype)
    for op in chosen:
        values, nodes = len(net.values), len(net.net.nodes)
        try:
            GENERATORS[op](net, op)
        except NotThereError:  # a form that came later; without what was grown for it
            del net.values[values:], net.net.nodes[nodes:]
    if len(net.values) == 1:
        net.layered()
    return net.model()
