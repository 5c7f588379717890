"""Changes of an operator's new version that need no rewriting to undo.

A row an opset: the operators whose version of that opset takes more types than the one before, has
an attribute or an input more, or merely says more clearly what it does. A type, attribute or input
that the older version does not have is refused node by node (see ``limits.py``); left out or at
its default it is dropped. What needs more than that is in ``rules.py``; what is in neither is
refused.
"""

from __future__ import annotations

NEWEST = 28  # later opsets are not known here

WIDENED: dict[int, frozenset[str]] = {
    opset: frozenset(names.split())
    for opset, names in {
        12: "ArgMax ArgMin Clip GatherND Max MaxPool Min ReduceMax ReduceMin",
        13: """Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace Div Dropout Equal
            Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm Greater Identity If
            IsNaN LRN Less Log Loop MatMul Max Mean MeanVarianceNormalization Min Mod Mul Neg
            NegativeLogLikelihoodLoss NonZero Pad Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum
            ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Relu Reshape
            ScatterElements ScatterND Shape Sigmoid Sign Size Slice SoftmaxCrossEntropyLoss
            SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose""",
        14: "Add BatchNormalization CumSum Div GRU Identity LSTM Mul RNN Relu Sub",
        15: "BatchNormalization Pow",
        16: """GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements
            ScatterND Where""",
        18: "LpPool OptionalGetElement OptionalHasElement",
        19: """CastLike Constant DequantizeLinear Equal Identity If Loop QuantizeLinear Reshape
            Scan Shape Size""",
        20: "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin",
        21: """Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad
            QLinearMatMul Reshape Scan Shape Size Squeeze Transpose Unsqueeze""",
        22: """Acos Acosh Asin Asinh Atan Atanh Bernoulli Conv ConvTranspose Cos Cosh DeformConv Det
            Dropout Elu EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
            HardSigmoid HardSwish InstanceNormalization LSTM LpNormalization LpPool MaxRoiPool
            MaxUnpool Mish Multinomial NegativeLogLikelihoodLoss RNN RandomNormal RandomNormalLike
            RandomUniform RandomUniformLike RoiAlign Round Selu Sin Sinh Softplus Softsign Tan
            ThresholdedRelu""",
        23: """Cast CastLike Constant ConstantOfShape Flatten Identity If Loop Pad QuantizeLinear
            Reshape Scan Shape Size Squeeze Transpose Unsqueeze""",
        24: """Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If
            Loop Pad QuantizeLinear Reshape Scan Shape Size SplitToSequence Squeeze TopK Transpose
            Unsqueeze""",
        25: """Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If
            Loop Pad QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze""",
        27: "Range",
        28: """Cast Celu Compress DepthToSpace DequantizeLinear Einsum OneHot Optional
            OptionalGetElement OptionalHasElement QuantizeLinear ReduceLogSum ReduceLogSumExp
            ReverseSequence SpaceToDepth Unique""",
    }.items()
}
