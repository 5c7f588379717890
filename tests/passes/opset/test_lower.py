"""Whole models: networks, bodies, functions; what is refused; a bug that must be caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.models import RECIPES, by_name
from prunedeploy.passes import PassError
from prunedeploy.passes.opset import LowerOpset, lowered
from prunedeploy.passes.opset.rules import RULES
from prunedeploy.passes.opset.widened import NEWEST
from prunedeploy.reference import verify
from prunedeploy.shrinking.export import to_model

SIDES = {
    "mobilenet_v2": 32,
    "squeezenet1_0": 65,
}


def parsed(text: str, opset: int = 20, ir_version: int = 10) -> ir.Model:
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "own" : 1]>'
    return ir.from_proto(onnx.parser.parse_model(head + text))


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)


def same(model: ir.Model, opset: int, tolerance: float = 0.0, ir_version: int = 0) -> PassResult:
    """Lower the model; its outputs stay, and a second run changes nothing."""
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    before = outputs(model, feeds)
    result = LowerOpset(opset, ir_version)(model)
    assert result.changed
    assert model.opset_imports[""] == opset
    for left, right in zip(before, outputs(model, feeds), strict=True):
        assert np.abs(left - right).max() <= tolerance * max(1.0, np.abs(left).max())
    assert not LowerOpset(opset, ir_version)(model).changed
    return result


@pytest.mark.parametrize("name", SIDES)
def test_networks(name: str, tmp_path: Path) -> None:
    """Exported and shrunk, at the opset and IR of TensorRT 8.2: not a bit of difference."""
    torch.manual_seed(0)
    module = by_name(name).factory().eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.weight[:3], each.bias[:3] = 0, 0.5
    model = to_model(module, (1, 3, SIDES[name], SIDES[name]))
    for step in passes.DEFAULT:
        step(model)
    shapes.infer_shapes(model)
    same(model, 13, ir_version=7)
    assert model.ir_version == 7
    assert not any(node.metadata_props for node in model.graph)


def test_the_networks_are_ours() -> None:
    assert set(SIDES) <= {recipe.name for recipe in RECIPES}


def test_a_transformer_layer() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True).eval()
    same(to_model(layer, (1, 5, 16)), 13, 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_norms_in_every_precision(dtype: type) -> None:
    """Statistics in float32 at least, as the definition has them."""
    kind = {np.float16: "float16", np.float32: "float"}[dtype]
    model = parsed(
        f"""g ({kind}[N,6,4,4] x) => ({kind}[N,6,4,4] y)
            <{kind}[6] s = {{1,2,1,2,1,2}}, {kind}[6] b = {{0,1,0,1,0,1}},
             {kind}[4] l = {{1,2,3,4}}> {{
            g = GroupNormalization<num_groups=3>(x, s, b)
            y = LayerNormalization(g, l)
        }}""",
        22,
    )
    rounding = {np.float16: 3e-3, np.float32: 1e-6}[dtype]
    same(model, 13, rounding)
    casts = sum(node.op_type == "Cast" for node in model.graph)
    assert casts == (4 if dtype is np.float16 else 0)


def test_bodies_are_lowered_too() -> None:
    model = parsed(
        """g (float[N,4] x, bool c) => (float[N,4] y) <int64[1] a = {1}> {
            y = If(c) <then_branch = t () => (float[N,4] u)
                    { m = ReduceMean(x, a) u = Sub(x, m) },
                else_branch = e () => (float[N,4] v) { v = Mish(x) }>
        }"""
    )
    for condition in (True, False):
        copy = model.clone()
        feeds = {"x": np.ones((2, 4), np.float32) * 3, "c": np.array(condition)}
        expected = outputs(copy, feeds)
        assert LowerOpset(13)(copy).changed
        np.testing.assert_allclose(outputs(copy, feeds)[0], expected[0], rtol=1e-6)


def test_local_functions_are_inlined() -> None:
    model = parsed(
        """g (float[N,4] x) => (float[N,4] y) { y = own.half_swish(x) }
        <domain: "own", opset_import: ["" : 20]> half_swish (a) => (b)
            { two = Constant<value_float = 2.0>() h = HardSwish(a) b = Div(h, two) }"""
    )
    same(model, 13, 1e-6)
    assert not model.functions


REFUSED = [
    (
        "float[2,4,5,6] x",
        "",
        'y = Einsum<equation="abcd->abc">(x)',
        11,
        "Einsum is new in opset 12",
    ),
    ("float[2,4,4,4] x, float[2,3,3,2] g", "", "y = GridSample(x, g)", 13, "new in opset 16"),
    ("float[2,6] x, int64[1] a", "", "y = ReduceMean(x, a)", 13, "axes are computed"),
    ("float[2,6] x, int64[1] a", "", "y = Squeeze(x, a)", 11, "axes are computed"),
    ("float[2,N] x", "", "y, z = Split<num_outputs=2, axis=1>(x)", 13, "length that it splits"),
    ("float[2,6] x", "<int64[2] s = {0,6}>", "y = Reshape<allowzero=1>(x, s)", 13, "allowzero=1"),
    ("bfloat16[2,6] x", "", "y = Softplus(x)", 13, "takes no bfloat16"),
    ("float[2,6] x", "<int64[4] p={0,1,0,1}>", 'y = Pad<mode="wrap">(x, p)', 13, "mode=wrap"),
    (
        "float[2,4,6,6] x",
        "<float[4] s = {1,1,2,2}>",
        'y = Resize<antialias=1, mode="linear">(x, , s)',
        13,
        "antialias=1 is new",
    ),
    (
        "float[2,4,6,6] x",
        "",
        "y = MaxPool<kernel_shape=[2,2], strides=[4,4], pads=[1,1,1,1], ceil_mode=1>(x)",
        13,
        "begins in the padding",
    ),
    (
        "float[2,6] x",
        "<float[6] s={1,1,1,1,1,1}, int8[6] z = {0,0,0,0,0,0}>",
        "q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z)",
        11,
        "each channel",
    ),
    (
        "float[3,4] x, float[2,2] u",
        "<int64[2,2] i = {0,1,2,0}>",
        'y = ScatterElements<reduction="add">(x, i, u)',
        13,
        "reduction=add is new in opset 16",
    ),
]


NEW_IN_28 = [
    ("float[2,6] x", "<float m = {2}>", "y = Mod(x, m)", "the sign of the divisor"),
    ("uint8[2,6] x", "<uint8 s = {8}>", 'z = BitShift<direction="LEFT">(x, s)', "by all bits"),
    ("uint8[2,6] x, uint8 s", "", 'z = BitShift<direction="LEFT">(x, s)', "is computed"),
    ("int8[2,6] x", "<int8 s = {1}>", 'z = BitShift<direction="LEFT">(x, s)', "takes no int8"),
]


@pytest.mark.parametrize(("inputs", "constants", "nodes", "reason"), NEW_IN_28)
def test_what_opset_28_brought_is_refused_by_name(
    inputs: str, constants: str, nodes: str, reason: str
) -> None:
    body = nodes if nodes.startswith("y") else f"{nodes} y = Cast<to=1>(z)"
    model = parsed(f"g ({inputs}) => (float[] y) {constants} {{ {body} }}", 28)
    with pytest.raises(UserError, match=reason):
        lowered(model, 17)


@pytest.mark.parametrize(("inputs", "constants", "nodes", "opset", "reason"), REFUSED)
def test_refused_by_name_and_left_alone(
    inputs: str, constants: str, nodes: str, opset: int, reason: str
) -> None:
    kind = "bfloat16" if "bfloat16" in inputs else "float"
    model = parsed(f"g ({inputs}) => ({kind}[] y) {constants} {{ a1 = Identity(x) {nodes} }}", 22)
    before = ir.to_proto(model)
    result = LowerOpset(opset)(model)
    assert not result.changed
    assert [note.status for note in result.notes] == ["refused"] * len(result.notes)
    assert reason in result.notes[0].reason
    assert ir.to_proto(model) == before
    with pytest.raises(UserError, match=f"cannot be written in opset {opset}"):
        lowered(model, opset)


def test_other_domains_are_none_of_its_business() -> None:
    model = parsed("g (float[N,4] x) => (float[N,4] y) { z = own.Thing(x) y = Mish(z) }")
    assert LowerOpset(13)(model).changed
    assert [n.op_type for n in model.graph] == ["Thing", "Softplus", "Tanh", "Mul"]


def test_nothing_to_do_and_nothing_known() -> None:
    assert not LowerOpset(13)(
        parsed("g (float[N] x) => (float[N] y) { y = Relu(x) }", 13, 7)
    ).changed
    older = parsed("g (float[N] x) => (float[N] y) { y = Relu(x) }", 13, 8)
    assert LowerOpset(13, 7)(older).changed
    newer = parsed("g (float[N] x) => (float[N] y) { y = Relu(x) }", NEWEST + 1)
    assert "newer than what is known" in LowerOpset(13)(newer).notes[0].reason
    with pytest.raises(UserError, match="give one of 11 to 28"):
        LowerOpset(9)


def test_a_broken_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug forgets the axes: still valid ONNX, still of the old form, another result."""

    def forgetful(node: ir.Node, emit: object) -> None:
        node.resize_inputs(1)

    text = """g (float[N,4,3] x) => (float[N,1,3] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }"""
    feeds = {"x": np.random.default_rng(0).random((2, 4, 3), np.float32)}
    assert passes.run(parsed(text), [LowerOpset(13)], feeds)[0].result.changed
    monkeypatch.setitem(RULES, ("ReduceMean", 18), forgetful)
    with pytest.raises(PassError, match="lower-opset"):
        passes.run(parsed(text), [LowerOpset(13)], feeds)
