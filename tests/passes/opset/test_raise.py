"""Models of old opsets in newer ones: the same outputs, or a refusal that names the operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, RaiseOpset
from prunedeploy.reference import verify


def old(opset: int = 9) -> ir.Model:
    """Operators that changed since opset 9, with weights both small and large."""
    net = Net(channels=3, size=8, dtype=np.float32, opset=opset)
    x = net.node("Relu", net.conv("input", (3, 16)))
    x = net.node("Upsample", x, net.weight(np.float32([1, 1, 2, 2])), mode="nearest")
    x = net.node("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1])
    x = net.node("Slice", x, axes=[2], starts=[1], ends=[9])
    x = net.node("Squeeze", net.node("ReduceMean", x, axes=[2, 3], keepdims=1), axes=[2, 3])
    x = net.node("Clip", net.linear(x, (16, 300)), min=-1.0, max=2.0)
    model = net.model(net.node("Softmax", net.linear(x, (300, 5))))
    model.ir_version = 4
    model.metadata_props["kept"] = "yes"
    return model


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_the_same_outputs(opset: int) -> None:
    model = old()
    feeds = verify.random_feeds(models.specs(model)[0])
    before = outputs(model, feeds)
    weights = {name: x.const_value for name, x in model.graph.initializers.items()}
    (report,) = passes.run(model, [RaiseOpset(opset)], feeds)
    assert report.result.changed
    assert model.opset_imports[""] == opset
    assert model.metadata_props["kept"] == "yes"
    large = [x for x in model.graph.initializers.values() if x.const_value.nbytes > 1024]
    assert len(large) == 4
    assert all(x.const_value is weights[x.name] for x in large)  # never copied
    np.testing.assert_allclose(outputs(model, feeds), before, rtol=1e-5, atol=1e-6)


def test_nothing_to_do() -> None:
    model = old()
    assert not RaiseOpset(9)(model).changed
    assert not RaiseOpset(8)(model).changed
    assert model.opset_imports[""] == 9


def test_an_operator_that_is_gone_is_named() -> None:
    net = Net(channels=3, size=8, dtype=np.float32, opset=9)
    model = net.model(
        net.node("Scatter", "input", net.weight(np.zeros((1, 1, 1, 1), int)), "input")
    )
    model.graph.node(0).op_type = "Experimental"
    result = RaiseOpset(13)(model)
    (note,) = result.notes
    assert (note.code, note.status, result.changed) == ("no-newer-form", "refused", False)
    assert "Experimental" in note.where + note.reason
    assert model.opset_imports[""] == 9


def test_a_conversion_that_changes_the_network_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: one that drops the padding."""
    honest = onnx.version_converter.convert_version

    def forgetful(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        made = honest(proto, opset)
        conv = next(node for node in made.graph.node if node.op_type == "Conv")
        next(x for x in conv.attribute if x.name == "pads").ints[:] = [0, 2, 2, 0]
        return made

    monkeypatch.setattr(onnx.version_converter, "convert_version", forgetful)
    model = old()
    with pytest.raises(PassError, match="raise-opset changed the outputs"):
        passes.run(model, [RaiseOpset(13)], verify.random_feeds(models.specs(model)[0]))
