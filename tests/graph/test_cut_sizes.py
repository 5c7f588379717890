"""Sizes behind a Slice of opset 10, which onnx takes for those before it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy.graph import preparation
from prunedeploy.reference import second_oracle
from prunedeploy.reference.evaluate import Evaluator

INT64 = onnx.TensorProto.INT64
SIZE = 1 << 31


def sliced(starts: list[int], ends: list[int], axes: list[int] | None = None) -> onnx.ModelProto:
    """A Slice of the batch, which ONNX Runtime computes, and whose buffer it reuses, first."""
    weights = {"w": draw(4, 4, 1, 1), "starts": np.array(starts), "ends": np.array(ends)}
    if axes is not None:
        weights["axes"] = np.array(axes)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Sigmoid", ["c"], ["y"]),
        node("Slice", ["x", "starts", "ends", *(["axes"] if axes is not None else [])], ["s"]),
        node("Relu", ["s"], ["r"]),
        node("ReduceMax", ["r"], ["top"], axes=[2, 3]),
    ]
    outputs = [info("top", FLOAT, None), info("y", FLOAT, ["batch", 4, 4, 4])]
    return model(nodes, [info("x", FLOAT, ["batch", 4, 4, 4])], outputs, weights, opset=10)


def sizes(proto: onnx.ModelProto) -> dict[str, str]:
    program = preparation.from_proto(proto).model
    return {str(v.name): str(v.shape[0]) for n in program.graph for v in n.outputs if v.shape}


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "cut"),
    [
        ([0], [1], [0], True),
        ([0], [1], [-4], True),
        ([0], [1], None, True),
        ([1], [SIZE], [0], True),
        ([0], [SIZE], [0], False),
        ([1], [3], [2], False),
    ],
)
def test_only_an_axis_that_is_cut_gets_a_size_of_its_own(
    starts: list[int], ends: list[int], axes: list[int] | None, cut: bool
) -> None:
    found = sizes(sliced(starts, ends, axes))
    assert found["s"] == ("s.0" if cut else "batch")
    assert found["r"] == found["s"]
    assert found["c"] == "batch"


def test_onnxruntime_takes_no_buffer_that_is_too_small() -> None:
    program = preparation.from_proto(sliced([0], [1], [0])).model
    feeds = {"x": draw(2, 4, 4, 4)}
    outputs = second_oracle.outputs(program, feeds)
    assert isinstance(outputs, dict)
    wanted = Evaluator(program).run(feeds)
    np.testing.assert_allclose(outputs["y"], wanted["y"], rtol=1e-5)
    for name in "sr":  # as onnx infers it
        value = next(v for n in program.graph for v in n.outputs if v.name == name)
        value.shape = None
    assert isinstance(second_oracle.outputs(program, feeds), second_oracle.NotAvailable)
