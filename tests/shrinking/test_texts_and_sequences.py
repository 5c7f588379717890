"""Networks with texts or sequences among their values, through ``shrink``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_onnx import FLOAT, draw, info, model, node

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.graph import preparation
from prunedeploy.reference import fitting, second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator

TEXT = TensorProto.STRING
IMAGE, FILTER = info("x", FLOAT, ["n", 3, 4, 4]), draw(6, 3, 1, 1)
SPLIT = [
    node("Conv", ["x", "w"], ["c"]),
    node("SplitToSequence", ["c", "two"], ["s"], axis=1),
]


def texts(*words: str) -> np.ndarray:
    return np.array(words, object)


def encoder() -> onnx.ModelProto:
    """Texts in one hot, and a layer."""
    nodes = [
        node("OneHotEncoder", ["s"], ["o"], domain="ai.onnx.ml", cats_strings=["ab", "c", "d"]),
        node("Reshape", ["o", "flat"], ["r"]),
        node("Gemm", ["r", "w"], ["y"]),
    ]
    weights = {"flat": np.array([-1, 3]), "w": draw(3, 4)}
    proto = model(nodes, [info("s", TEXT, ["n", 1])], [info("y", FLOAT, ["n", 4])], weights)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return proto


def names_of_classes(*, wrong: bool = False) -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "w"], ["l"]),
        node("ArgMin" if wrong else "ArgMax", ["l"], ["a"], axis=1, keepdims=0),
        node("Gather", ["names", "a"], ["y"]),
        node("Concat", ["names", "names"], ["all"], axis=0),
    ]
    weights = {"names": texts("a", "b", "ü", "d"), "w": draw(3, 4)}
    outputs = [info("y", TEXT, ["n"]), info("all", TEXT, [8])]
    return model(nodes, [info("x", FLOAT, ["n", 3])], outputs, weights)


def sequence_out() -> onnx.ModelProto:
    """A dead channel, and a sequence of three tensors as the output."""
    weight = FILTER.copy()
    weight[1] = 0
    output = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    return model(SPLIT, [IMAGE], [output], {"w": weight, "two": np.array(2)})


@pytest.mark.parametrize("make", [encoder, names_of_classes, sequence_out])
def test_shrink_holds_the_result_against_onnxruntime(make: object, tmp_path: Path) -> None:
    assert callable(make)
    onnx.save(make(), tmp_path / "net.onnx")
    result = prunedeploy.shrink(tmp_path / "net.onnx", tmp_path / "small.onnx", align=1)
    assert result.difference.max_rel < 1e-6
    assert all(check.oracle for check in result.cross_checks)


def test_texts_are_drawn_from_those_that_the_network_knows() -> None:
    program = preparation.from_proto(encoder()).model
    (spec,) = fitting.fitted(program)
    assert set(spec.sample.words) == {"ab", "c", "d"}
    drawn = verify.random_feeds((spec,), batch=64)["s"]
    assert set(drawn.reshape(-1)) == {"ab", "c", "d"}


def test_another_text_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = (preparation.from_proto(names_of_classes(wrong=x)).model for x in (False, True))
    feeds = {"x": draw(8, 3)}
    ours, other = (Evaluator(each).run(feeds) for each in (right, wrong))
    assert set(ours["all"]) == {"a", "b", "ü", "d"}
    assert verify.compare(ours, ours).passed
    assert not verify.compare(ours, other).passed
    assert isinstance(second_oracle.compare(right, feeds), second_oracle.Agreement)
    monkeypatch.setattr(second_oracle, "outputs", lambda *_, **__: other)  # of another network
    found = second_oracle.compare(right, feeds)
    assert isinstance(found, second_oracle.Disagreement)
    assert found.output == "y"
    assert ours["y"][found.index] != other["y"][found.index]


def test_one_tensor_of_a_sequence_that_differs_is_found() -> None:
    program = preparation.from_proto(sequence_out()).model
    feeds = {"x": draw(2, 3, 4, 4)}
    ours = Evaluator(program).run(feeds)
    other = {"s": [x + (i == 2) for i, x in enumerate(ours["s"])]}
    found = verify.compare(ours, other)
    assert not found.passed
    assert found.where == "s[2]"
    assert verify.compare(ours, other, {"s": 2.0}).passed
    with pytest.raises(UserError, match="should have 3 elements, found 2"):
        verify.compare(ours, {"s": ours["s"][:2]})


def test_a_sequence_as_an_input_is_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, ["n", 3])
    nodes = [node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    with pytest.raises(UserError, match="'s' is a sequence"):
        preparation.from_proto(model(nodes, [sequence], [info("y", FLOAT, ["m", 3])]))
