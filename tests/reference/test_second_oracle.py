"""ONNX Runtime beside the interpreter: what it gives, when it says nothing, what a mistake does."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from net import Net
from onnx import TensorProto, helper

import prunedeploy
from prunedeploy.core import files
from prunedeploy.core.records import CrossCheck, Manifest, ShrinkResult
from prunedeploy.graph import model as models
from prunedeploy.reference import reductions, second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.registry import KERNELS
from prunedeploy.reference.second_oracle import Agreement, Disagreement, NotAvailable, OracleError


def softmax_net(opset: int = 11, tail: int = 0) -> ir.Model:
    """A convolution, a Softmax over all axes but the batch before opset 13, and what follows."""
    net = Net(channels=3, size=5, dtype=np.float32, opset=opset, batch=2)
    x = net.node("Softmax", net.conv("input", (3, 4), name="a"), axis=1)
    for _ in range(tail):
        x = net.node("Neg", x)
    return net.model(str(x))


def feeds_of(model: ir.Model) -> dict[str, Any]:
    return verify.random_feeds(models.specs(model)[0])


@pytest.fixture
def mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that reads every Softmax as opset 13 does."""
    newest = reductions.TABLE["Softmax"][13]
    monkeypatch.setitem(KERNELS, "Softmax", {1: newest, 11: newest, 13: newest})


def test_outputs_of_a_file_and_of_a_model_in_memory(tmp_path: Path) -> None:
    model = softmax_net()
    models.save(model, tmp_path / "net.onnx")
    feeds = feeds_of(model)
    expected = Evaluator(model).run(feeds)
    for source in (model, tmp_path / "net.onnx"):
        found = second_oracle.outputs(source, feeds, threads=2)
        assert isinstance(found, dict)
        assert verify.compare(expected, found).passed


def test_weights_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come from it, and as they would have to go through one."""
    net = Net(channels=16, size=4, dtype=np.float32)
    model = net.model(net.conv("input", (16, 16)))  # small weights are read at once
    feeds = feeds_of(model)
    expected = Evaluator(model).run(feeds)
    ir.save(model, tmp_path / "net.onnx", external_data="net.data", size_threshold_bytes=0)
    outside = models.load(tmp_path / "net.onnx")
    assert any(isinstance(v.const_value, ir.ExternalTensor) for v in _weights(outside))
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 10)
    for each in (outside, model, tmp_path / "net.onnx"):
        found = second_oracle.outputs(each, feeds)
        assert isinstance(found, dict), found
        assert verify.compare(expected, found).passed
    # what the model holds is as it was
    assert any(isinstance(v.const_value, ir.ExternalTensor) for v in _weights(outside))


def _weights(model: ir.Model) -> list[ir.Value]:
    return list(model.graph.initializers.values())


def test_sums_of_nothing_are_not_asked_about() -> None:
    """ONNX Runtime leaves what was in memory."""
    net = Net(channels=0, size=4, dtype=np.float32, batch=1)
    model = net.model(net.conv("input", (0, 3), bias=1.0))
    found = second_oracle.outputs(model, {"input": np.zeros((1, 0, 4, 4), np.float32)})
    assert isinstance(found, second_oracle.NotAvailable)
    assert "has no elements" in found.reason


def test_feeds_of_another_byte_order_and_layout() -> None:
    model = softmax_net()
    feeds = feeds_of(model)
    odd = {k: np.asfortranarray(v.astype(">f4")) for k, v in feeds.items()}
    one, other = (second_oracle.outputs(model, each) for each in (feeds, odd))
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert verify.compare(one, other, 0.0).passed


def test_it_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = softmax_net()
    found = second_oracle.check(model, feeds_of(model), {}, "a model")
    assert not found.oracle
    assert "not installed" in found.reason


@pytest.mark.parametrize("case", ["operator", "opset", "type"])
def test_what_it_cannot_run_it_says_nothing_of(case: str) -> None:
    kind = TensorProto.DOUBLE if case == "type" else TensorProto.FLOAT
    operator = {"operator": "GlobalLpPool", "opset": "Celu", "type": "LRN"}[case]
    opset = {"operator": 22, "opset": 28, "type": 13}[case]
    attributes = {"size": 3} if operator == "LRN" else {}
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    info = [helper.make_tensor_value_info(n, kind, [1, 3, 4, 4]) for n in "xy"]
    if operator == "GlobalLpPool":
        info[1] = helper.make_tensor_value_info("y", kind, [1, 3, 1, 1])
    graph = helper.make_graph([node], "net", info[:1], info[1:])
    imports = [helper.make_opsetid("", opset)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    verdict = second_oracle.compare(model, feeds_of(model))
    assert isinstance(verdict, NotAvailable)
    assert "ONNX Runtime" in verdict.reason


def test_outputs_that_are_left_out_at_the_end() -> None:
    """Given their empty names, ONNX Runtime ends the process."""
    names = ["scale", "bias", "mean", "var"]
    value = helper.make_tensor_value_info
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "", "", "", ""])
    graph = helper.make_graph(
        [node],
        "net",
        [value("x", TensorProto.FLOAT, [2, 3, 4])],
        [value("y", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_tensor(n, TensorProto.FLOAT, [3], [1, 2, i + 1]) for i, n in enumerate(names)],
    )
    imports = [helper.make_opsetid("", 9)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))
    assert isinstance(second_oracle.compare(model, feeds_of(model)), Agreement)


def test_random_numbers_are_not_compared() -> None:
    net = Net(channels=3, dtype=np.float32)
    model = net.model(net.node("Add", "input", net.node("RandomNormalLike", "input")))
    verdict = second_oracle.compare(model, feeds_of(model))
    assert isinstance(verdict, NotAvailable)
    assert "RandomNormalLike" in verdict.reason


@pytest.mark.parametrize("opset", [9, 11, 13, 20])
def test_the_oracles_agree(opset: int) -> None:
    model = softmax_net(opset)
    verdict = second_oracle.compare(model, feeds_of(model))
    assert isinstance(verdict, Agreement)
    assert verdict.difference < 1e-6
    exact = Evaluator(model, float64=True).run(feeds_of(model))
    assert isinstance(second_oracle.compare(model, feeds_of(model), exact), Agreement)


def cancelling(size: int = 4, then: str = "Identity") -> ir.Model:
    """Sums of numbers that all but cancel: float32 keeps few of their digits."""
    net = Net(channels=64, size=size, dtype=np.float32, batch=2)
    far = net.node("Add", net.conv("input", (64, 64), name="a"), net.weight(np.full(1, 1e4)))
    w = net.weight(net.random.standard_normal((64, 64, 1, 1)))
    still = net.node("Conv", net.weight(np.full((1, 64, 1, 1), 1e4)), w)
    return net.model(str(net.node(then, net.node("Sub", net.node("Conv", far, w), still))))


def test_rounding_that_the_network_blows_up_is_no_disagreement() -> None:
    model = cancelling()
    feeds = feeds_of(model)
    other = second_oracle.outputs(model, feeds)
    assert isinstance(other, dict)
    assert verify.compare(Evaluator(model).run(feeds), other).max_rel > 2e-5
    assert isinstance(second_oracle.compare(model, feeds), Agreement)
    exact = Evaluator(model, float64=True).run(feeds)
    assert isinstance(second_oracle.compare(model, feeds, exact), Agreement)


def test_a_sigmoid_exact_to_a_part_of_its_range_is_no_disagreement() -> None:
    """ONNX Runtime's has few digits near zero, which a division shows."""
    net = Net(channels=3, size=8, dtype=np.float32, batch=2)
    wide = net.node("Mul", "input", net.weight(np.full(1, 3.0)))
    model = net.model(str(net.node("Reciprocal", net.node("Sigmoid", wide))))
    feeds = feeds_of(model)
    other = second_oracle.outputs(model, feeds)
    assert isinstance(other, dict)
    assert verify.compare(Evaluator(model).run(feeds), other).max_rel > 1e-5
    assert isinstance(second_oracle.compare(model, feeds), Agreement)


def test_where_rounding_decides_nothing_is_said() -> None:
    model = cancelling(size=24, then="Sign")
    verdict = second_oracle.compare(model, feeds_of(model))
    assert isinstance(verdict, NotAvailable)
    assert "rounding alone" in verdict.reason


def test_integers_are_compared_one_by_one() -> None:
    net = Net(channels=3, dtype=np.float32)
    model = net.model(str(net.node("ArgMax", net.conv("input", (3, 4)), axis=1)))
    assert isinstance(second_oracle.compare(model, feeds_of(model)), Agreement)


@pytest.mark.usefixtures("mistaken")
def test_a_mistake_of_the_interpreter_is_a_disagreement() -> None:
    model = softmax_net(11, tail=3)
    verdict = second_oracle.compare(model, feeds_of(model))
    assert isinstance(verdict, Disagreement)
    assert verdict.output == model.graph.outputs[0].name
    assert abs(verdict.reference - verdict.other) > 0.01
    assert len(verdict.index) == 4


@pytest.mark.usefixtures("mistaken")
@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_the_first_operator_that_differs_is_found(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_oracle, "CHUNK", chunk)
    model = softmax_net(11, tail=5)
    found = second_oracle.first_difference(model, feeds_of(model))
    assert found == "operator Softmax (node Softmax_1)"


def test_nothing_is_found_where_nothing_differs() -> None:
    model = softmax_net(11, tail=5)
    assert second_oracle.first_difference(model, feeds_of(model)) is None


def test_a_mistake_that_the_branch_of_an_if_hides_is_found_at_the_if(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = reductions.TABLE["Softmax"][13]
    monkeypatch.setitem(KERNELS, "Softmax", {1: newest, 11: newest})
    net = Net(channels=3, size=5, dtype=np.float32, opset=11, batch=2)
    x = net.conv("input", (3, 4), name="a")

    def branch(axis: int) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        node = helper.make_node("Softmax", [x], ["out"], axis=axis)
        return helper.make_graph([node], f"axis{axis}", [], [out])

    condition = net.weight(np.array(True))
    y = net.node("If", condition, then_branch=branch(1), else_branch=branch(2))
    model = net.model(str(y))
    assert second_oracle.first_difference(model, feeds_of(model)) == "operator If (node If_1)"


@pytest.mark.usefixtures("mistaken")
def test_shrink_writes_nothing_on_a_disagreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(softmax_net(), tmp_path / "net.onnx")
    with pytest.raises(OracleError, match=r"disagree about the model as it is: output .*Softmax"):
        prunedeploy.shrink("net.onnx", "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.usefixtures("mistaken")
def test_build_writes_nothing_on_a_disagreement_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunedeploy.cli import main

    monkeypatch.chdir(tmp_path)
    models.save(softmax_net(), tmp_path / "net.onnx")
    assert main(["build", "net.onnx", "--runtime", "ort"]) == 2
    assert "first differ at operator Softmax" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.usefixtures("mistaken")
def test_lower_writes_nothing_on_a_disagreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(softmax_net(12), tmp_path / "net.onnx")
    with pytest.raises(OracleError, match=r"disagree about net.onnx: output .*Softmax"):
        prunedeploy.lower("net.onnx", "low.onnx", opset=11)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_check_goes_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(softmax_net(), tmp_path / "net.onnx")
    done = prunedeploy.shrink("net.onnx", "small.onnx")
    assert [check.model for check in done.cross_checks] == [
        "the model as it is",
        "the shrunk model",
    ]
    assert all(check.oracle.startswith("ONNX Runtime") for check in done.cross_checks)
    assert files.from_json(ShrinkResult, Path("small.json").read_text()) == done
    engine = prunedeploy.build("net.onnx", runtime="ort")
    assert engine.manifest.cross_check is not None
    assert engine.manifest.cross_check.oracle.startswith("ONNX Runtime")


@pytest.mark.parametrize("kind", [ShrinkResult, Manifest])
def test_records_of_before_still_load(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(softmax_net(), tmp_path / "net.onnx")
    done: Any = prunedeploy.shrink("net.onnx", "small.onnx")
    if kind is Manifest:
        done = prunedeploy.build("net.onnx", runtime="ort").manifest
    plain = json.loads(files.to_json(done))
    plain.pop("cross_checks" if kind is ShrinkResult else "cross_check")
    found = files.from_json(kind, json.dumps(plain))
    assert asdict(found) == {
        **asdict(done),
        **({"cross_checks": ()} if kind is ShrinkResult else {"cross_check": None}),
    }


def test_what_is_printed() -> None:
    from prunedeploy.cli.show import verdicts

    agreed = CrossCheck("the model", "ONNX Runtime 1.31.1", "", 2e-7)
    assert verdicts.cross_checks((agreed,)) == "agrees with ONNX Runtime 1.31.1, within 2e-07"
    alone = CrossCheck("the shrunk model", "", "it cannot run it")
    assert verdicts.cross_checks((agreed, alone)) == (
        "was not held against ONNX Runtime (the shrunk model: it cannot run it)"
    )
    assert verdicts.cross_checks(()) == "was not held against ONNX Runtime"
