"""Inputs whose shape the file leaves out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy.core.errors import UserError
from prunedeploy.graph import preparation

CONV, FILTER = node("Conv", ["a", "w"], ["y"]), draw(4, 3, 1, 1)


def shapeless(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    return model(nodes, [info("x", FLOAT, None)], [info("y", FLOAT, None)], weights)


CASES = {
    "filter": ([node("Conv", ["x", "w"], ["y"])], {"w": FILTER}, [None, 3, None, None]),
    "groups": ([node("Conv", ["x", "w"], ["y"], group=2)], {"w": FILTER}, [None, 6, None, None]),
    "transposed filter": (
        [node("ConvTranspose", ["x", "w"], ["y"])],
        {"w": draw(5, 3, 2)},
        [None, 5, None],
    ),
    "pool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])], {}, [None] * 4),
    "matrix": ([node("Gemm", ["x", "w"], ["y"])], {"w": draw(3, 4)}, [None, 3]),
    "turned matrix": (
        [node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)],
        {"w": draw(4, 3)},
        [3, None],
    ),
    "recurrent": (
        [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)],
        {"w": draw(1, 8, 3), "r": draw(1, 8, 2)},
        [None, None, 3],
    ),
    "behind a subtraction": (
        [node("Sub", ["x", "m"], ["a"]), CONV],
        {"w": FILTER, "m": draw(1, 3, 1, 1)},
        [None, 3, None, None],
    ),
    "behind a transpose": (
        [node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]), CONV],
        {"w": FILTER},
        [None, None, None, 3],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_operator_that_reads_an_input_says_its_shape(case: str) -> None:
    nodes, weights, wanted = CASES[case]
    program = preparation.from_proto(shapeless(nodes, **weights)).model
    shape = program.graph.inputs[0].shape
    assert shape is not None
    assert [dim if isinstance(dim, int) else None for dim in shape] == wanted


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("MatMul", ["x", "w"], ["y"])], {"w": draw(3, 4)}),  # of any number of axes
        ([node("Gather", ["w", "x"], ["y"])], {"w": draw(3, 4)}),
        ([node("Relu", ["x"], ["y"])], {}),
    ],
)
def test_an_input_of_any_shape_is_refused(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UserError, match="'x' has no shape, and no operator that reads it says"):
        preparation.from_proto(shapeless(nodes, **weights))
