"""Which samples may be computed together, found with real engines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import prunedeploy
from prunedeploy.engines import engine_folder
from prunedeploy.serving.http import plan as planning
from prunedeploy.serving.http.plan import padded, plan_of


def plan_for(engine, largest: int = 0) -> planning.BatchPlan:
    with prunedeploy.open(engine, threads=1) as session:
        return plan_of(session, engine.manifest, largest)


@pytest.fixture
def built(tmp_path):
    """An engine of ONNX Runtime for the body of a graph, ``x`` to ``y``."""

    def build(shape: str, body: str):
        graph = onnx.parser.parse_graph(f"g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}")
        opsets = [onnx.helper.make_opsetid("", 20)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(model, tmp_path / "m.onnx")
        prunedeploy.build(tmp_path / "m.onnx", "host", "ort", tmp_path / "e")
        return engine_folder.read_engine(tmp_path / "e")

    return build


def test_an_engine_that_takes_any_batch(served_engines):
    plan = plan_for(served_engines["ort"])
    assert plan.largest == planning.USUAL_LARGEST
    assert [plan.total(n) for n in (1, 5, 16, 99)] == [1, 5, 16, 99]
    assert plan_for(served_engines["ort"], 3).largest == 3


def test_a_sparse_engine_goes_up_to_its_largest_batch(served_engines):
    plan = plan_for(served_engines["sparse"])
    assert (plan.largest, plan.sizes) == (4, (1, 4))
    assert [plan.total(n) for n in (1, 4)] == [1, 4]
    assert plan.total(2) in (2, 4)  # whichever is faster here
    assert plan_for(served_engines["sparse"], 64).largest == 4


def test_a_fixed_batch_is_open_for_requests(served_engines):
    plan = plan_for(served_engines["fixed"])
    assert (plan.largest, plan.fixed, plan.totals) == (4, True, (4, 4, 4, 4))
    assert [spec.shape[0] for spec in (*plan.inputs, *plan.outputs)] == ["batch", "batch"]


def test_batches_of_one(served_engines):
    plan = plan_for(served_engines["sparse"], 1)
    assert plan.largest == 0
    assert "asked for" in plan.alone


@pytest.mark.parametrize(
    ("body", "together"),
    [
        ("y = Relu(x)", True),
        ("y = Softmax <axis = 1> (x)", True),
        ("y = Softmax <axis = 0> (x)", False),
        ("a = CumSum(x, i) y = Relu(a)", False),
    ],
)
def test_samples_that_depend_on_each_other_stay_alone(built, body, together):
    if "CumSum" in body:
        body = f"i = Constant <value_int = 0> () {body}"
    plan = plan_for(built("N, 6", body))
    assert bool(plan.largest) == together
    assert together or plan.alone == "samples of a batch depend on each other"
    fixed = plan_for(built("3, 6", body))
    assert (fixed.largest == 3) == together


def test_other_first_axes_are_no_batch(tmp_path, built):
    assert plan_for(built("1, 6", "y = Relu(x)")).alone == "it is built for batches of one"
    graph = onnx.parser.parse_graph(
        "g (float[N, 6] x, float[6] w) => (float[N, 6] y) { y = Mul(x, w) }"
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "two.onnx")
    prunedeploy.build(tmp_path / "two.onnx", "host", "ort", tmp_path / "two")
    plan = plan_for(engine_folder.read_engine(tmp_path / "two"))
    assert plan.alone == "its first axis is not the batch"


def test_the_cheapest_total():
    seconds = {1: 1.0, 4: 1.5, 16: 3.9}
    totals = [planning._cheapest(n, seconds) for n in range(1, 17)]
    assert totals == [1, 4, 4, 4, 5, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16]
    dear = {1: 1.0, 4: 9.0}
    assert planning._cheapest(3, dear) == 3
    assert [planning._cheapest(n, {4: 1.0}) for n in (1, 4, 5)] == [4, 4, 8]


def test_padding_repeats_the_last_sample():
    feeds = {"x": np.arange(6).reshape(3, 2)}
    assert padded(feeds, 3, 3) is feeds
    assert padded(feeds, 3, 5)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
