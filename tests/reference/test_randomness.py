"""Networks that draw random numbers: refused before anything is compared with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import through_all
from onnx import TensorProto, helper
from small_onnx import FLOAT, conv_net, draw, graph, info, model, node, write

import prunedeploy
from prunedeploy.core.errors import UserError

BOOL = TensorProto.BOOL
X, Y = info("x", FLOAT, ["n", 8]), info("y", FLOAT, ["n", 8])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noisy(*nodes: onnx.NodeProto, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """The nodes make ``r`` of ``v``, which is x @ W; y is v + r."""
    every = [node("MatMul", ["x", "W"], ["v"]), *nodes, node("Add", ["v", "r"], ["y"])]
    return model(every, [X], [Y], {"W": draw(8, 8), **weights}, opset=opset)


def dropout(training: np.ndarray | None) -> onnx.ModelProto:
    """``training`` is a constant, or an input where None."""
    made = noisy(node("Dropout", ["v", "p", "t"], ["r"], name="drop"), p=np.array(0.5, np.float32))
    if training is None:
        made.graph.input.append(info("t", BOOL, []))
    else:
        made.graph.initializer.append(onnx.numpy_helper.from_array(training, "t"))
    return made


def in_branch() -> onnx.ModelProto:
    then = graph("t", [node("RandomNormalLike", ["v"], ["t"], name="noise")], ["t"])
    other = graph("e", [node("Neg", ["v"], ["e"])], ["e"])
    made = noisy(node("If", ["k"], ["r"], then_branch=then, else_branch=other))
    made.graph.input.append(info("k", BOOL, []))
    return made


def like(operator: str, **attributes: object) -> onnx.ModelProto:
    return noisy(node(operator, ["v"], ["r"], name="noise", **attributes))


RANDOM = {
    "Dropout": lambda: dropout(np.array(True)),
    "Dropout (drop)": lambda: dropout(None),
    "Dropout of a seed": lambda: noisy(
        node("Dropout", ["v", "p", "t"], ["r"], seed=7),
        p=np.array(0.5, np.float32),
        t=np.array(True),
    ),
    "Dropout of opset 6": lambda: noisy(node("Dropout", ["v"], ["r"], ratio=0.5), opset=6),
    "RandomNormalLike": lambda: like("RandomNormalLike", scale=0.1),
    "RandomUniformLike": lambda: like("RandomUniformLike"),
    "RandomUniformLike of a seed": lambda: like("RandomUniformLike", seed=3.0),
    "RandomNormal": lambda: noisy(node("RandomNormal", [], ["r"], shape=[1, 8])),
    "RandomUniform": lambda: noisy(node("RandomUniform", [], ["r"], shape=[1, 8])),
    "Bernoulli": lambda: noisy(node("Sigmoid", ["v"], ["s"]), node("Bernoulli", ["s"], ["r"])),
    "Multinomial": lambda: noisy(
        node("Multinomial", ["v"], ["i"], sample_size=1), node("Cast", ["i"], ["r"], to=FLOAT)
    ),
    "RandomNormalLike (noise)": in_branch,
}


@pytest.mark.parametrize("case", RANDOM)
def test_random_outputs_are_refused_first_and_the_operators_named(case: str) -> None:
    write(RANDOM[case]())
    for command in (
        lambda: prunedeploy.shrink("net.onnx", "small.onnx", align=1),
        lambda: prunedeploy.build("net.onnx", runtime="ort", output="e"),
        lambda: prunedeploy.build("net.onnx", runtime="sparse", output="e"),
        lambda: prunedeploy.lower("net.onnx", "low.onnx"),
        lambda: prunedeploy.emit_c("net.onnx", output="c"),
        lambda: prunedeploy.write_bundle("net.onnx", "jetson-nano", "b"),
    ):
        with pytest.raises(UserError, match="the outputs are random") as caught:
            command()
        assert case.partition(" of ")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]


def test_several_are_named_once_each() -> None:
    nodes = [node("RandomNormalLike", ["v"], [f"r{i}"], name=f"n{i}") for i in range(5)]
    write(noisy(*nodes, node("Sum", [f"r{i}" for i in range(5)], ["r"])))
    with pytest.raises(UserError, match=r"\(n0\), .*\(n1\), .*\(n2\) and 2 more draw random"):
        prunedeploy.shrink("net.onnx", "small.onnx", align=1)


@pytest.mark.parametrize("operator", ["RandomNormalLike", "Multinomial"])
def test_noise_that_no_output_depends_on_is_no_obstacle(operator: str) -> None:
    more = {"sample_size": 2} if operator == "Multinomial" else {}
    idle = node(operator, ["v"], ["q"], **more)
    made = noisy(idle, node("Cast", ["q"], ["c"], to=FLOAT), node("Neg", ["v"], ["r"]))
    through_all(made, {"x": draw(2, 8)})


def test_noise_that_is_multiplied_by_zero_is_no_obstacle() -> None:
    """That no output differs is seen by running the model, not by its graph."""
    made = noisy(
        node("RandomNormalLike", ["v"], ["q"]),
        node("Mul", ["q", "zero"], ["r"]),
        zero=np.zeros(8, np.float32),
    )
    through_all(made, {"x": draw(2, 8)}, runtimes=("ort",))


@pytest.mark.parametrize("opset", [9, 10, 17])
def test_dropout_that_is_for_inference_is_no_noise(opset: int) -> None:
    made = conv_net(opset=opset)
    made.graph.node[1].CopyFrom(node("Dropout", ["a"], ["r"]))
    through_all(made, {"x": draw(2, 3, 8, 8)})
    through_all(dropout(np.array(False)), {"x": draw(2, 8)})


def test_an_operator_of_the_same_name_in_another_domain() -> None:
    made = like("RandomNormalLike")
    made.graph.node[1].domain = "com.example"
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    write(made)
    with pytest.raises(UserError, match=r"com.example::RandomNormalLike .* is unknown"):
        prunedeploy.shrink("net.onnx", "small.onnx", align=1)
