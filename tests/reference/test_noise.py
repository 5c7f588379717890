"""Differences that rounding explains, and those that it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper as nh
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.graph import preparation
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.ort.cpu import Ort

CLASSES = 100_000


def amplifier() -> onnx.ModelProto:
    """A difference of nearly equal sums: 2e4 times what float32 rounds of them is left."""
    weight = draw(64, 16)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "large"], ["b"]),
        node("Relu", ["b"], ["r"]),
        node("Sub", ["r", "large"], ["c"]),
        node("MatMul", ["c", "v"], ["y"]),
    ]
    weights = {"w": weight, "large": np.full(16, 2e4, np.float32), "v": draw(16, 4, seed=1)}
    return model(nodes, [info("x", FLOAT, [8, 64])], [info("y", FLOAT, [8, 4])], weights)


def test_an_amplified_rounding_passes_and_a_fault_above_it_does_not() -> None:
    program = preparation.from_proto(amplifier()).model
    feeds = {"x": draw(8, 64, seed=2)}
    ours = Evaluator(program).run(feeds)
    exact = Evaluator(program, float64=True).run(feeds)
    other = {"y": (2 * exact["y"] - ours["y"]).astype(np.float32)}  # it rounds the other way
    assert not verify.compare(ours, other).passed
    found = verify.against_noise(program, feeds, ours, other, None)
    assert found.passed
    assert "float64" in found.where
    assert 1e-5 < found.tolerance < 1e-2
    span = np.ptp(exact["y"])
    other["y"][3, 2] += np.float32(3 * found.tolerance * span)
    assert not verify.against_noise(program, feeds, ours, other, None).passed


def test_a_network_that_does_not_round_has_its_tolerance() -> None:
    proto = model(
        [node("Gemm", ["x", "w"], ["y"])],
        [info("x", FLOAT, [4, 32])],
        [info("y", FLOAT, [4, 8])],
        {"w": draw(32, 8)},
    )
    program = preparation.from_proto(proto).model
    feeds = {"x": draw(4, 32, seed=1)}
    ours = Evaluator(program).run(feeds)
    wrong = {"y": ours["y"] + np.float32(3e-5 * np.ptp(ours["y"]))}
    found = verify.against_noise(program, feeds, ours, wrong, None)
    assert not found.passed
    assert found.tolerance == verify.TOLERANCE["float32"]


def test_what_only_sizes_decide_is_not_moved() -> None:
    """A scale that is moved below 2 would make an image one pixel smaller."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=FLOAT),
        node("Mul", ["f", "half"], ["h"]),
        node("Cast", ["h"], ["sizes"], to=onnx.TensorProto.INT64),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    weights = {"half": np.array([1, 1, 2.2, 2.2], np.float32)}
    proto = model(
        nodes, [info("x", FLOAT, [1, 1, 5, 5])], [info("y", FLOAT, [1, 1, 11, 11])], weights
    )
    program = preparation.from_proto(proto).model
    exact, moved = verify.exact_and_moved(program, {"x": draw(1, 1, 5, 5)})
    assert exact["y"].shape == moved["y"].shape
    assert np.abs(exact["y"] - moved["y"]).max() > 0


@pytest.mark.parametrize("wrong", [False, True])
def test_the_second_oracle_allows_long_sums_in_float32(
    monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """ONNX Runtime adds 100,000 terms of a Softmax one after the other."""
    proto = model(
        [node("Softmax", ["x"], ["y"], axis=-1)],
        [info("x", FLOAT, [2, CLASSES])],
        [info("y", FLOAT, [2, CLASSES])],
    )
    program = preparation.from_proto(proto).model
    x = np.zeros((2, CLASSES), np.float32)
    x[0, 0] = np.log(CLASSES)
    if wrong:
        other = Evaluator(program).run({"x": x})["y"] * np.float32(1.01)
        monkeypatch.setattr(second_oracle, "outputs", lambda *_, **__: {"y": other})
    verdict = second_oracle.compare(program, {"x": x})
    assert isinstance(verdict, second_oracle.Disagreement if wrong else second_oracle.Agreement)


@pytest.mark.parametrize("wrong", [False, True])
def test_an_engine_is_refused_for_a_fault_and_not_for_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    good, other = tmp_path / "good.onnx", tmp_path / "other.onnx"
    proto = amplifier()
    onnx.save(proto, good)
    large = proto.graph.initializer[1]
    size = 2e4 if wrong else 3.5e4  # where float32 has half as many numbers
    large.CopyFrom(nh.from_array(np.full(16, size, np.float32), "large"))
    if wrong:
        weight = nh.to_array(proto.graph.initializer[0]).copy()
        weight[5, 7] = 0
        proto.graph.initializer[0].CopyFrom(nh.from_array(weight, "w"))
    onnx.save(proto, other)
    real = Ort.build
    monkeypatch.setattr(Ort, "build", lambda self, _, *rest: real(self, other, *rest))
    if wrong:
        with pytest.raises(UserError, match="computes something else"):
            building.build(good, runtime="ort", output=tmp_path / "e")
        return
    difference = building.build(good, runtime="ort", output=tmp_path / "e").manifest.difference
    assert difference is not None
    assert difference.passed
    assert verify.TOLERANCE["float32"] < difference.max_rel <= difference.tolerance < 1e-2


def quantised(bias: int) -> onnx.ModelProto:
    """A quantised convolution whose sums can fall into the middle of two steps of the next one."""
    steps = {"sx": 0.03, "sw": 0.02, "sb": 0.0006, "sy": 0.05}  # 0.03 * 0.02 = 0.0006
    nodes = [
        node("QuantizeLinear", ["x", "sx", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "sw"], ["wd"]),
        node("DequantizeLinear", ["bq", "sb"], ["bd"]),
        node("Conv", ["xd", "wd", "bd"], ["c"]),
        node("QuantizeLinear", ["c", "sy", "z"], ["cq"]),
        node("DequantizeLinear", ["cq", "sy", "z"], ["y"]),
    ]
    weights = {name: np.float32(step) for name, step in steps.items()}
    weights |= {"z": np.uint8(100), "wq": np.array([[[[120]], [[3]]]], np.int8)}
    weights["bq"] = np.array([bias], np.int32)
    shape = [1, 2, 4, 4]
    return model(nodes, [info("x", FLOAT, shape)], [info("y", FLOAT, None)], weights)


TIED = 125  # 125 * 0.0006 is one and a half steps of 0.05


def test_a_tie_of_a_quantiser_is_rounding_and_two_steps_are_a_fault() -> None:
    program = preparation.from_proto(quantised(TIED)).model
    feeds = {"x": np.zeros((1, 2, 4, 4), np.float32)}
    ours = Evaluator(program).run(feeds)
    step = np.float32(0.05)
    (other,) = {1, 2} - {int(np.rint(ours["y"].max() / step))}
    outputs = {"y": np.full_like(ours["y"], other * step)}
    assert not verify.compare(ours, outputs).passed
    tied = verify.at_ties(program, feeds)
    assert tied is not None
    np.testing.assert_allclose(tied["y"], outputs["y"], rtol=1e-6)


def test_nothing_else_is_moved_at_ties() -> None:
    program = preparation.from_proto(quantised(TIED + 1)).model
    feeds = {"x": draw(1, 2, 4, 4)}
    exact = Evaluator(program, float64=True).run(feeds)
    tied = verify.at_ties(program, feeds)
    assert tied is not None
    assert np.array_equal(exact["y"], tied["y"])
    assert verify.at_ties(preparation.from_proto(amplifier()).model, {"x": draw(8, 64)}) is None


def test_an_engine_may_decide_a_tie_the_other_way_and_no_more() -> None:
    program = preparation.from_proto(quantised(TIED)).model
    feeds = {"x": 2 * draw(1, 2, 4, 4)}
    feeds["x"][0, :, 0, 0] = 0  # one tie among other numbers
    ours = Evaluator(program).run(feeds)
    exact = Evaluator(program, float64=True).run(feeds)
    tied = verify.at_ties(program, feeds)
    assert tied is not None
    assert np.argwhere(exact["y"] != tied["y"]).tolist() == [[0, 0, 0, 0]]
    assert verify.against_noise(program, feeds, ours, tied, 1e-9).passed
    moved = {"y": tied["y"].copy()}
    moved["y"][0, 0, 1, 1] += 1.0
    assert not verify.against_noise(program, feeds, ours, moved, 1e-9).passed
