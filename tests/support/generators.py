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
import onnx_ir as ir
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
OLD = ("Add", "BatchNormalization", "Concat", "Conv", "Relu", "Sigmoid")  # alike in opset 9
COMMON = tuple(op for op in GENERATORS if op not in OPSET)


def grow(choose: random.Random, focus: str | None = None) -> ir.Model:
    """A random network of two to six operators; ``focus`` is among them where it is given."""
    opset = OPSET.get(focus or "", 20)
    others = OLD if opset < 13 else COMMON
    chosen = [choose.choice(others) for _ in range(choose.randint(1, 5))]
    chosen.insert(choose.randrange(len(chosen) + 1), focus or choose.choice(others))
    net = RandomGraph(choose, opset, fixed=focus == "GatherND")
    for op in chosen:
        GENERATORS[op](net, op)
    return net.model()
