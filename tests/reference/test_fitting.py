"""Inputs that fit: sizes that a network accepts, values that it uses, outputs that vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper as h
from onnx import numpy_helper as nh
from small_onnx import draw as numbers
from small_onnx import info as value
from small_onnx import model

from prunedeploy.core.budget import OverBudgetError
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.graph import preparation
from prunedeploy.reference import fitting, second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.pipeline import shrink

T = onnx.TensorProto
MATCH = r"not finite on random inputs.*--input-range"


def fitted(proto):
    program = preparation.from_proto(proto).model
    return program, fitting.fitted(program)


def branch(name, window):
    """A branch that takes exactly ``window`` samples."""
    weight = nh.from_array(numbers(window, 4), f"w_{name}")
    node = h.make_node("MatMul", ["x", f"w_{name}"], [name])
    return h.make_graph([node], name, [], [value(name, T.FLOAT, None)], [weight])


def sampled(windows):
    """A network that takes a sampling rate; 16000 asks for other windows than any other rate."""
    nodes = [
        h.make_node("Equal", ["rate", "known"], ["is_known"]),
        h.make_node(
            "If",
            ["is_known"],
            ["y"],
            then_branch=branch("t", windows[0]),
            else_branch=branch("e", windows[1]),
        ),
    ]
    inputs = [value("x", T.FLOAT, ["n", "samples"]), value("rate", T.INT64, [])]
    return model(nodes, inputs, [value("y", T.FLOAT, ["n", 4])], {"known": np.int64(16000)})


@pytest.mark.parametrize("windows", [(512, 512), (512, 256)])
def test_both_branches_run_each_with_a_size_that_it_takes(windows):
    program, inputs = fitted(sampled(windows))
    assert verify.turns(inputs) == 2
    runs = [verify.random_feeds(inputs, seed=turn) for turn in range(2)]
    assert [int(feeds["rate"]) for feeds in runs] == [16000, 16001]
    assert tuple(feeds["x"].shape[1] for feeds in runs) == windows
    assert all(Evaluator(program).run(feeds)["y"].shape == (2, 4) for feeds in runs)


def test_a_fault_in_the_other_branch_is_found(tmp_path, monkeypatch):
    """Only 16001 leads there; a build that tried one rate would not see it."""
    from prunedeploy.runtimes.ort.cpu import Ort

    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    proto = sampled((64, 64))
    onnx.save(proto, good)
    weight = proto.graph.node[1].attribute[1].g.initializer[0]
    weight.CopyFrom(nh.from_array(nh.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(proto, bad)
    real = Ort.build
    monkeypatch.setattr(Ort, "build", lambda self, _, *rest: real(self, bad, *rest))
    with pytest.raises(UserError, match="computes something else"):
        building.build(good, runtime="ort", output=tmp_path / "e")


def test_images_are_as_large_as_the_pooling_layers_ask_for():
    nodes = [
        h.make_node("AveragePool", ["x"], ["a"], kernel_shape=[100, 100]),
        h.make_node("GlobalAveragePool", ["a"], ["g"]),
        h.make_node("Flatten", ["g"], ["y"]),
    ]
    inputs = [value("x", T.FLOAT, ["n", 3, "h", "w"])]
    program, specs = fitted(model(nodes, inputs, [value("y", T.FLOAT, ["n", 3])], {}))
    feeds = verify.random_feeds(specs, 3)
    assert feeds["x"].shape == (3, 3, 128, 128)
    assert np.isfinite(Evaluator(program).run(feeds)["y"]).all()


def test_a_state_has_the_batch_of_its_input_and_a_network_may_take_one_sample_only():
    nodes = [
        h.make_node("Reshape", ["s", "flat"], ["f"]),
        h.make_node("Concat", ["x", "f"], ["y"], axis=1),
    ]
    inputs = [value("x", T.FLOAT, [None, 8]), value("s", T.FLOAT, [1, None, 8])]
    weights = {"flat": np.array([-1, 8])}
    _, specs = fitted(model(nodes, inputs, [value("y", T.FLOAT, [None, 16])], weights))
    feeds = verify.random_feeds(specs)
    assert (feeds["x"].shape, feeds["s"].shape) == ((2, 8), (1, 2, 8))

    nodes = [h.make_node("Reshape", ["x", "one"], ["y"])]
    weights = {"one": np.array([1, 24])}
    inputs = [value("x", T.FLOAT, ["n", 4, 6])]
    _, specs = fitted(model(nodes, inputs, [value("y", T.FLOAT, [1, 24])], weights))
    assert verify.random_feeds(specs)["x"].shape == (1, 4, 6)


def test_indices_are_drawn_from_all_rows_of_their_table():
    nodes = [
        h.make_node("Cast", ["i"], ["c"], to=T.INT64),
        h.make_node("Gather", ["w", "c"], ["y"]),
    ]
    proto = model(
        nodes,
        [value("i", T.INT32, [4, 50])],
        [value("y", T.FLOAT, [4, 50, 3])],
        {"w": numbers(20, 3)},
    )
    _, specs = fitted(proto)
    drawn = verify.random_feeds(specs)["i"]
    assert set(drawn.reshape(-1)) == set(range(20))


def test_a_detector_that_finds_nothing_in_noise_gets_other_inputs():
    """It answers to what neighbours share, as images have it: noise gives 4e-9 everywhere."""
    weight = np.full((1, 1, 4, 4), 4.0, np.float32)
    nodes = [
        h.make_node("Conv", ["x", "w", "b"], ["c"], strides=[4, 4]),
        h.make_node("Sigmoid", ["c"], ["y"]),
    ]
    weights = {"w": weight, "b": np.full(1, -90, np.float32)}
    inputs = [value("x", T.FLOAT, [1, 1, 32, 32])]
    proto = model(nodes, inputs, [value("y", T.FLOAT, [1, 1, 8, 8])], weights)
    program, specs = fitted(proto)
    assert specs[0].sample.floats != "normal"
    assert np.ptp(Evaluator(program).run(verify.random_feeds(specs))["y"]) > fitting.TELLING


def test_inputs_of_a_logarithm_are_positive_and_what_is_never_finite_names_the_option(tmp_path):
    inputs, outputs = [value("x", T.FLOAT, [2, 6])], [value("y", T.FLOAT, [2, 1])]
    nodes = [h.make_node("ReduceLogSum", ["x"], ["y"], axes=[1])]
    program, specs = fitted(model(nodes, inputs, outputs, {}))
    outputs_ = Evaluator(program).run(verify.random_feeds(specs))
    assert fitting.comparable(outputs_)

    nodes = [
        h.make_node("Abs", ["x"], ["a"]),
        h.make_node("Neg", ["a"], ["m"]),
        h.make_node("Log", ["m"], ["l"]),
        h.make_node("ReduceSum", ["l", "one"], ["y"]),
    ]
    path: Path = tmp_path / "nan.onnx"
    onnx.save(model(nodes, inputs, outputs, {"one": np.array([1])}), path)
    for command in (
        lambda: shrink(path, tmp_path / "s.onnx", align=1),
        lambda: building.build(path, runtime="ort", output=tmp_path / "e"),
    ):
        with pytest.raises(UserError, match=MATCH):
            command()


def banded(comparisons, bounds=("low", "high")):
    """The softmax over those of 20 frequencies that lie within two bounds."""
    nodes = [
        h.make_node(comparisons[0], ["known", "low"], ["above"]),
        h.make_node(comparisons[1], ["known", "high"], ["below"]),
        h.make_node("And", ["above", "below"], ["used"]),
        h.make_node("Where", ["used", "x", "never"], ["s"]),
        h.make_node("Softmax", ["s"], ["y"]),
    ]
    inputs = [value("x", T.FLOAT, ["n", 20]), *(value(name, T.FLOAT, []) for name in bounds)]
    known = {"known": np.linspace(50, 90, 20, dtype=np.float32), "never": np.float32(-np.inf)}
    return model(nodes, inputs, [value("y", T.FLOAT, ["n", 20])], known)


@pytest.mark.parametrize(
    ("comparisons", "chosen"),
    [(("GreaterOrEqual", "LessOrEqual"), (50, 90)), (("Greater", "Less"), (49, 91))],
)
def test_bounds_leave_in_all_that_is_held_against_them(comparisons, chosen):
    program, inputs = fitted(banded(comparisons))
    assert verify.turns(inputs) == 1
    feeds = verify.random_feeds(inputs)
    assert (feeds["low"], feeds["high"]) == chosen
    outputs = Evaluator(program).run(feeds)
    assert np.isfinite(outputs["y"]).all()
    assert (outputs["y"] > 0).all()


def test_advice_names_the_inputs_where_there_are_several():
    _, inputs = fitted(banded(("Less", "Greater")))
    advice = "--input-range x=LOW,HIGH --input-range low=LOW,HIGH --input-range high=LOW,HIGH"
    with pytest.raises(UserError, match=advice):
        fitting.refuse_incomparable({"y": np.full(3, np.nan)}, inputs)


def filled(size, batch):
    """A network that adds up a matrix of ones, which its file does not have."""
    nodes = [
        h.make_node("ConstantOfShape", ["shape"], ["ones"]),
        h.make_node("ReduceMax", ["ones"], ["sum"], keepdims=0),
        h.make_node("Add", ["x", "sum"], ["y"]),
    ]
    x, y = value("x", T.FLOAT, [batch, 16]), value("y", T.FLOAT, [batch, 16])
    return model(nodes, [x], [y], {"shape": np.array([size, size], np.int64)})


def endless(batch):
    """A network with a loop of 2^62 turns."""
    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["on"]), h.make_node("Relu", ["a"], ["b"])],
        "body",
        [value("i", T.INT64, []), value("go", T.BOOL, []), value("a", T.FLOAT, [batch, 16])],
        [value("on", T.BOOL, []), value("b", T.FLOAT, [batch, 16])],
    )
    x, y = value("x", T.FLOAT, [batch, 16]), value("y", T.FLOAT, [batch, 16])
    loop = h.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    return model([loop], [x], [y], {"trips": np.array(1 << 62, np.int64)})


@pytest.mark.parametrize("batch", [2, "batch"])
def test_what_is_over_the_budget_never_reaches_onnxruntime(batch, monkeypatch):
    """It has no budget: it takes the memory, and goes on with the loop."""
    pytest.importorskip("onnxruntime")
    ran = []
    opened = second_oracle.opened

    def counted(program):
        run = opened(program)
        return lambda feeds: ran.append(program) or run(feeds)

    monkeypatch.setattr(second_oracle, "opened", counted)
    for bomb in (filled(1 << 16, batch), endless(batch)):
        with pytest.raises(OverBudgetError):
            fitted(bomb)
    assert not ran
    fitted(filled(1 << 4, batch))
    assert ran
