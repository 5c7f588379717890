"""One test for every row of the table: the new form by the specification, the old one by ORT."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from prunedeploy.graph import model as models
from prunedeploy.passes.opset import LowerOpset
from prunedeploy.passes.opset.rules import DEFINED, RULES
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

IMAGE = "float[2,4,5,6] x"

# (operator, opset) -> graphs: inputs, initializers, nodes; each has one output y
ROWS: dict[tuple[str, int], list[tuple[str, str, str]]] = {
    ("BitShift", 28): [
        ("uint8[2,5] x", "<uint8 s = {3}>", 'y = BitShift<direction="RIGHT">(x, s)'),
    ],
    ("Mod", 28): [
        ("float[2,5] x", "<float m = {0.7}>", "y = Mod<fmod=1>(x, m)"),
        ("int8[2,64] x", "<int8 m = {-7}>", "z = Mod(x, m) y = Cast<to=1>(z)"),
    ],
    ("SwiGLU", 28): [
        ("float[2,6] x, float[2,6] z", "", "y = SwiGLU(x, z)"),
        ("float[2,6] x, float[2,6] z", "", "y = SwiGLU<alpha=1.5>(x, z)"),
    ],
    ("CausalConvWithState", 27): [
        ("float[2,3,8] x, float[3,1,4] w", "", "y = CausalConvWithState(x, w)"),
    ],
    ("LinearAttention", 27): [
        (
            "float[2,5,8] x, float[2,5,8] k, float[2,5,8] v",
            "",
            'y = LinearAttention<q_num_heads=2, kv_num_heads=2, update_rule="linear">(x, k, v)',
        ),
    ],
    ("Swish", 24): [
        ("float[2,5] x", "", "y = Swish(x)"),
        ("float[2,5] x", "", "y = Swish<alpha=1.5>(x)"),
    ],
    ("RMSNormalization", 23): [
        ("float[2,5,6] x", "<float[6] s = {1,2,3,4,5,6}>", "y = RMSNormalization(x, s)"),
        ("float[2,2,3] x, float[2,3] s", "", "y = RMSNormalization<axis=1, epsilon=0.1>(x, s)"),
    ],
    ("DequantizeLinear", 23): [
        ("int8[2,5] x", "<float s = {0.1}>", "y = DequantizeLinear<output_dtype=1>(x, s)"),
    ],
    ("AveragePool", 22): [
        (IMAGE, "", "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)"),
        (IMAGE, "", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)"),
    ],
    ("MaxPool", 22): [
        (IMAGE, "", "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)"),
        (IMAGE, "", "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)"),
    ],
    ("GroupNormalization", 21): [
        (
            IMAGE,
            "<float[4] s = {1,2,3,4}, float[4] b = {0,1,0,2}>",
            "y = GroupNormalization<num_groups=2, epsilon=0.01>(x, s, b)",
        ),
    ],
    ("QuantizeLinear", 21): [
        ("float[2,5] x", "<float s = {0.1}>", "y = QuantizeLinear<output_dtype=3>(x, s)"),
        (
            "float[2,3] x",
            "<float[3] s = {0.1,0.2,0.3}>",
            "y = QuantizeLinear<output_dtype=3, axis=1>(x, s)",
        ),
    ],
    ("DFT", 20): [
        ("float[2,6,2] x", "<int64 a = {1}>", "y = DFT(x, , a)"),
        ("float[2,6,1] x", "", "y = DFT<onesided=1>(x)"),
    ],
    ("Gelu", 20): [
        ("float[2,5] x", "", "y = Gelu(x)"),
        ("float[2,5] x", "", 'y = Gelu<approximate="tanh">(x)'),
    ],
    ("GridSample", 20): [
        (f"{IMAGE}, float[2,3,3,2] g", "", "y = GridSample(x, g)"),
        (f"{IMAGE}, float[2,3,3,2] g", "", 'y = GridSample<mode="cubic">(x, g)'),
    ],
    ("AveragePool", 19): [
        (IMAGE, "", "y = AveragePool<kernel_shape=[2,2], dilations=[1,1]>(x)"),
    ],
    ("Cast", 19): [("float[2,5] x", "", "y = Cast<to=10, saturate=0>(x)")],
    ("Pad", 19): [
        ("float[2,5] x", "<int64[4] p = {0,1,1,2}>", 'y = Pad<mode="reflect">(x, p)'),
    ],
    ("Resize", 19): [
        (IMAGE, "<float[4] s = {1,1,2,2}>", 'y = Resize<mode="linear">(x, , s)'),
    ],
    ("GroupNormalization", 18): [
        (
            IMAGE,
            "<float[2] s = {2,3}, float[2] b = {1,2}>",
            "y = GroupNormalization<num_groups=2>(x, s, b)",
        ),
    ],
    ("Mish", 18): [("float[2,5] x", "", "y = Mish(x)")],
    ("Pad", 18): [
        (
            IMAGE,
            "<int64[4] p = {1,0,2,1}, float c = {3.0}, int64[2] a = {-1,2}>",
            "y = Pad(x, p, c, a)",
        ),
        (
            IMAGE,
            "<int64[2] h = {1,2}, int64[1] a = {2}>",
            "p = Identity(h) y = Pad(x, p, , a)",
        ),
    ],
    ("Resize", 18): [
        (
            IMAGE,
            "<float[2] s = {2,3}>",
            'y = Resize<axes=[3,2], mode="nearest", nearest_mode="floor", '
            'coordinate_transformation_mode="asymmetric">(x, , s)',
        ),
        (IMAGE, "<int64[2] s = {7,9}>", 'y = Resize<axes=[2,3], mode="linear">(x, , , s)'),
    ],
    ("ScatterElements", 18): [
        (
            "float[3,4] x, float[2,2] u",
            "<int64[2,2] i = {0,1,2,0}>",
            'y = ScatterElements<reduction="add">(x, i, u)',
        ),
    ],
    ("ScatterND", 18): [
        (
            "float[3,4] x, float[2,4] u",
            "<int64[2,1] i = {2,0}>",
            'y = ScatterND<reduction="mul">(x, i, u)',
        ),
    ],
    ("Split", 18): [
        ("float[7,3] x", "", "a, b, c = Split<num_outputs=3>(x) y = Concat<axis=0>(c, a, b)"),
        ("float[6,3] x", "", "a, b = Split<num_outputs=2>(x) y = Sub(a, b)"),
    ],
    ("LayerNormalization", 17): [
        (
            "float[2,3,5] x",
            "<float[5] s = {1,2,3,4,5}, float[5] b = {5,4,3,2,1}>",
            "y = LayerNormalization(x, s, b)",
        ),
        (
            "float[2,3,2] x",
            "<float[3,2] s = {1,2,3,4,5,6}>",
            "a, m, r = LayerNormalization<axis=1, epsilon=0.1>(x, s) c = Add(a, m) y = Mul(c, r)",
        ),
    ],
    ("RoiAlign", 16): [
        (
            IMAGE,
            "<float[1,4] r = {0,0,3,3}, int64[1] b = {0}>",
            'y = RoiAlign<coordinate_transformation_mode="output_half_pixel", output_height=2, '
            "output_width=2, sampling_ratio=2>(x, r, b)",
        ),
    ],
    ("CastLike", 15): [("float[2,5] x, int32[1] l", "", "y = CastLike(x, l)")],
    ("Shape", 15): [
        ("float[2,5,3] x", "", "y = Shape<start=1>(x)"),
        ("float[2,5,3] x", "", "y = Shape<start=-3, end=-1>(x)"),
    ],
    ("HardSwish", 14): [("float[2,5] x", "", "y = HardSwish(x)")],
    ("Reshape", 14): [
        ("float[2,6] x", "<int64[3] s = {-1,2,3}>", "y = Reshape<allowzero=1>(x, s)"),
    ],
    ("Trilu", 14): [
        ("float[2,4,5] x", "", "y = Trilu(x)"),
        ("float[N,4,5] x", "<int64 k = {-1}>", "y = Trilu<upper=0>(x, k)"),
        ("float[2,N,N] x", "<int64 k = {1}>", "y = Trilu<upper=1>(x, k)"),
    ],
    ("DequantizeLinear", 13): [
        ("uint8[2,5] x", "<float s = {0.1}, uint8 z = {3}>", "y = DequantizeLinear(x, s, z)"),
    ],
    ("QuantizeLinear", 13): [
        ("float[2,5] x", "<float s = {0.1}, uint8 z = {30}>", "y = QuantizeLinear(x, s, z)"),
    ],
    ("ReduceSum", 13): [
        ("float[2,3,4] x", "<int64[2] a = {0,-1}>", "y = ReduceSum<keepdims=0>(x, a)"),
        ("float[2,3,4] x", "", "y = ReduceSum(x)"),
        ("float[2,3,4] x", "<int64[0] a = {}>", "y = ReduceSum<noop_with_empty_axes=1>(x, a)"),
    ],
    ("Resize", 13): [
        (IMAGE, "<int64[4] s = {2,4,7,9}>", 'y = Resize<mode="linear">(x, , , s)'),
    ],
    ("Split", 13): [
        ("float[7,3] x", "<int64[2] s = {5,2}>", "a, b = Split(x, s) y = Concat<axis=0>(b, a)"),
    ],
    ("Squeeze", 13): [
        ("float[1,3,1] x", "<int64[1] a = {-1}>", "y = Squeeze(x, a)"),
        ("float[1,3,1] x", "", "y = Squeeze(x)"),
    ],
    ("Unsqueeze", 13): [("float[3,2] x", "<int64[2] a = {0,-1}>", "y = Unsqueeze(x, a)")],
    ("Celu", 12): [("float[2,5] x", "", "y = Celu<alpha=0.7>(x)")],
    ("Constant", 12): [
        ("float[2,5] x", "", "c = Constant<value_float=2.5>() y = Mul(x, c)"),
        ("float[2,2] x", "", "c = Constant<value_ints=[-1]>() y = Reshape(x, c)"),
    ],
    ("Dropout", 12): [("float[2,5] x", "", "y = Dropout(x)")],
    ("GreaterOrEqual", 12): [("float[2,5] x, float[2,5] z", "", "y = GreaterOrEqual(x, z)")],
    ("LessOrEqual", 12): [("float[2,5] x, float[2,5] z", "", "y = LessOrEqual(x, z)")],
    ("Pow", 12): [("float[2,5] x", "<int64 e = {3}>", "y = Pow(x, e)")],
    **{
        (f"Reduce{name}", 18): [
            ("float[2,3,4] x", "<int64[2] a = {-1,1}>", f"z = Exp(x) y = Reduce{name}(z, a)"),
            ("float[2,3,4] x", "", f"z = Exp(x) y = Reduce{name}<keepdims=0>(z)"),
        ]
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    **{
        (name, 13): [
            ("float[2,3,4] x", "", f"y = {name}(x)"),
            ("float[2,3,4] x", "", f"y = {name}<axis=1>(x)"),
        ]
        for name in ("Softmax", "LogSoftmax", "Hardmax")
    },
    ("Attention", 23): [
        ("float[2,3,4,8] q, float[2,3,5,8] k, float[2,3,5,6] v", "", "y = Attention(q, k, v)"),
        (
            "float[2,4,24] q, float[2,5,24] k, float[2,5,18] v, float[4,5] m",
            "",
            "y = Attention<q_num_heads=3, kv_num_heads=3, scale=0.3>(q, k, v, m)",
        ),
        (
            "float[2,4,4,8] q, float[2,2,4,8] k, float[2,2,4,8] v",
            "",
            "y = Attention<is_causal=1>(q, k, v)",
        ),
    ],
    ("RotaryEmbedding", 23): [
        (
            "float[2,3,4,8] x, float[2,4,4] c, float[2,4,4] s",
            "",
            "y = RotaryEmbedding(x, c, s)",
        ),
    ],
    ("CenterCropPad", 18): [
        ("float[5,6] x", "<int64[2] s = {3,8}>", "y = CenterCropPad(x, s)"),
    ],
    **{
        (name, 17): [("float[2,6] x", "<int64 n = {6}>", f"w = {name}(n) y = Mul(x, w)")]
        for name in ("BlackmanWindow", "HammingWindow", "HannWindow")
    },
}
COMPLETE_IN_ORT = 23  # the newest opset of which ONNX Runtime has what is written here
KINDS = {
    "BitShift": "uint8",
    "CastLike": "int32",
    "Shape": "int64",
    "QuantizeLinear": "int8",
    "Cast": "float16",
}


def model_of(opset: int, inputs: str, constants: str, nodes: str, kind: str = "float") -> ir.Model:
    imports = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return ir.from_proto(
        onnx.parser.parse_model(f"{imports} g ({inputs}) => ({kind}[] y) {constants} {{{nodes}}}")
    )


def feeds_of(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """N(0, 1) and zero, at which some operators turn; an integer takes all of its values."""
    found = verify.random_feeds(models.specs(model)[0], batch=2, seed=seed, size=4)
    for array in found.values():
        if array.dtype.kind == "f":
            array.reshape(-1)[0] = 0
    return found


def in_ort(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def uses(model: ir.Model, op: str) -> bool:
    return any(node.op_type == op for node in model.graph.all_nodes())


CASES = [
    pytest.param(op, opset, *case, id=f"{op}-{opset}-{index}")
    for (op, opset), cases in ROWS.items()
    for index, case in enumerate(cases)
]


@pytest.mark.parametrize(("op", "opset", "inputs", "constants", "nodes"), CASES)
def test_row(op: str, opset: int, inputs: str, constants: str, nodes: str) -> None:
    kind = KINDS.get(op, "bool" if op.endswith("OrEqual") else "float")
    if op == "QuantizeLinear" and opset == 13:
        kind = "uint8"
    model = model_of(opset, inputs, constants, nodes, kind)
    feeds = feeds_of(model)
    expected = Evaluator(model).run(feeds)["y"]
    before = ir.to_proto(model).graph
    target = min(opset - 1, COMPLETE_IN_ORT)
    assert LowerOpset(target)(model).changed
    assert model.opset_imports[""] == target
    found = in_ort(model, feeds)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    # a trained operator of ONNX Runtime may use another approximation of exp or tanh
    tolerance = 2e-6 * max(1.0, float(np.abs(expected.astype(np.float64)).max()))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=tolerance)
    assert not LowerOpset(target)(model).changed
    if (op, opset) in RULES:
        assert [i.name for i in ir.to_proto(model).graph.output] == [i.name for i in before.output]


def test_every_row_has_a_test() -> None:
    defined = {(op, opset) for opset, names in DEFINED.items() for op in names}
    assert set(RULES) | defined == set(ROWS)


@pytest.mark.parametrize("target", [11, 13, 15, 17])
def test_the_way_down_in_one_go(target: int) -> None:
    """Forms that change twice, and operators made of others that change again."""
    model = model_of(
        25,
        "float[2,4,5,6] x",
        "<float[6] s = {1,2,3,4,5,6}, int64[2] a = {2,3}, int64[4] p = {1,0,1,0},"
        " int64[1] z = {0}>",
        "b = RMSNormalization(x, s) c = Swish(b) d = Pad(c, p, , a) e = Gelu(d) f = HardSwish(e)"
        " g = LayerNormalization<axis=-1>(f, s) h, i = Split<num_outputs=2, axis=1>(g)"
        " j = Add(h, i) k = Softmax<axis=1>(j) l = ReduceMax(k, a) n = Unsqueeze(l, z)"
        " o = Squeeze(n, z) y = Trilu(o)",
    )
    feeds = feeds_of(model)
    expected = Evaluator(model).run(feeds)["y"]
    assert LowerOpset(target)(model).changed
    np.testing.assert_allclose(in_ort(model, feeds), expected, rtol=1e-5, atol=1e-6)
