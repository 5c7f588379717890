"""Computed shapes taken apart: what is known of them becomes constant."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy import passes
from prunedeploy.graph import preparation
from prunedeploy.passes import SplitShapes
from prunedeploy.reference.evaluate import Evaluator

INT64 = TensorProto.INT64


def constant(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def pyramid(piece: str, opset: int = 17) -> onnx.ModelProto:
    """Two convolutions with dead channels, one resized to the other's size and added to it."""
    a, b = draw(8, 3, 3, 3), draw(8, 3, 3, 3, seed=1)
    a[:3] = b[:3] = 0
    ways = {
        "Shape of a part": [node("Shape", ["p"], ["head"], start=0, end=2)],
        "Slice": [node("Shape", ["p"], ["s"]), node("Slice", ["s", "zero", "two"], ["head"])],
        "Gather": [node("Shape", ["p"], ["s"]), node("Gather", ["s", "both"], ["head"])],
        "Gather of a Slice": [
            node("Shape", ["p"], ["s"]),
            node("Slice", ["s", "zero", "three"], ["t"]),
            node("Gather", ["t", "both"], ["head"]),
        ],
    }
    nodes = [
        node("Conv", ["x", "A"], ["p"], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["x", "B"], ["q"], pads=[1] * 4),
        *ways[piece],
        node("Concat", ["head", "size"], ["sizes"], axis=0),
        node("Resize", ["p", "", "", "sizes"], ["u"], mode="nearest"),
        node("Add", ["q", "u"], ["r"]),
        node("Conv", ["r", "C"], ["y"]),
    ]
    made = model(
        nodes,
        [info("x", FLOAT, ["n", 3, 12, 12])],
        [info("y", FLOAT, ["n", 5, 12, 12])],
        {"A": a, "B": b, "C": draw(5, 8, 1, 1, seed=2)},
        opset=opset,
    )
    numbers = {"zero": (0,), "two": (2,), "three": (3,), "both": (0, 1), "size": (12, 12)}
    made.graph.initializer.extend(constant(name, *found) for name, found in numbers.items())
    return made


@pytest.mark.parametrize(
    ("piece", "opset"),
    [
        ("Shape of a part", 17),
        ("Slice", 17),
        ("Slice", 13),
        ("Gather", 17),
        ("Gather", 13),
        ("Gather of a Slice", 13),
    ],
)
def test_channels_of_a_pyramid_go(piece: str, opset: int) -> None:
    program = preparation.from_proto(pyramid(piece, opset)).model
    feeds = {"x": draw(2, 3, 12, 12)}
    before = Evaluator(program).run(feeds)
    passes.run(program, passes.default(), feeds)
    rows = {k: v.shape[0] for k, v in program.graph.initializers.items() if k in ("A", "B", "C")}
    assert rows == {"A": 5, "B": 5, "C": 5}
    for size in (1, 2, 3):
        other = {"x": draw(size, 3, 12, 12, seed=size)}
        expected = Evaluator(preparation.from_proto(pyramid(piece, opset)).model).run(other)
        np.testing.assert_allclose(Evaluator(program).run(other)["y"], expected["y"], atol=1e-5)
    assert before["y"].shape == (2, 5, 12, 12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (3, 0, 1), (0, 0), (1, 1), (-1, -4)])
def test_entries_keep_their_order(order: tuple[int, ...]) -> None:
    made = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "i"], ["p"]),
            node("Concat", ["p", "one", "p"], ["y"], axis=0),
        ],
        [info("x", FLOAT, ["n", 3, "h", 8])],
        [info("y", INT64, [2 * len(order) + 1])],
    )
    made.graph.initializer.extend([constant("i", *order), constant("one", 1)])
    program = preparation.from_proto(made).model
    feeds = {"x": draw(2, 3, 4, 8)}
    expected = Evaluator(program).run(feeds)["y"]
    passes.run(program, [SplitShapes()], feeds)
    np.testing.assert_array_equal(Evaluator(program).run(feeds)["y"], expected)
    assert not SplitShapes()(program).changed


def test_what_is_read_elsewhere_stays() -> None:
    """The whole shape is an output too; a joined value that is no shape is none of its business."""
    made = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Concat", ["s", "k"], ["y"], axis=0),
        ],
        [info("x", FLOAT, ["n", 3]), info("k", INT64, [2])],
        [info("y", INT64, [4]), info("s", INT64, [2])],
    )
    program = preparation.from_proto(made).model
    feeds = {"x": draw(5, 3), "k": np.array([7, 9])}
    (report,) = passes.run(program, [SplitShapes()], feeds)
    assert report.result.notes[0].count == 1
    found = Evaluator(program).run(feeds)
    assert found["y"].tolist() == [5, 3, 7, 9]
    assert found["s"].tolist() == [5, 3]
