"""Sizes stated for inputs: where they are open, everywhere a name stands, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from onnx import TensorProto, helper

from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.graph.fixed_shapes import fix, sized


def two_inputs() -> models.ir.Model:
    """Ids and a mask of one open length, and a state of another."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["ids", "mask"], ["m"]),
            helper.make_node("ReduceSum", ["state"], ["s"], keepdims=0),
            helper.make_node("Add", ["m", "s"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [3, None]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return models.preparation.from_proto(made).model


def shapes(model: models.ir.Model) -> list[tuple[int | str, ...]]:
    inputs, outputs = models.specs(model)
    return [spec.shape for spec in (*inputs, *outputs)]


def test_one_name_is_one_size() -> None:
    model = two_inputs()
    fix(model, {"ids": (None, 128)})
    assert shapes(model) == [("batch", 128), ("batch", 128), (3, "?"), ("batch", 128)]
    fix(model, {"mask": (2, 128), "state": (3, 7)})
    assert shapes(model) == [(2, 128), (2, 128), (3, 7), (2, 128)]
    fix(model, {})
    assert shapes(model) == [(2, 128), (2, 128), (3, 7), (2, 128)]


def test_what_follows_from_the_sizes_is_known() -> None:
    net = Net(channels=3, size="side", dtype=np.float32)
    pooled = net.node("MaxPool", net.conv("input", (3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    model = net.model(net.node("Flatten", pooled))
    fix(model, {"": (None, 3, 8, 8)})
    assert shapes(model)[-1] == ("batch", 128)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"": (1, 8)}, "the model takes ids, mask, state: name the input"),
        ({"tokens": (1, 8)}, "no input is called 'tokens': the model takes ids, mask, state"),
        ({"ids": (1, 8, 1)}, r"ids has 2 axes \(batchxlength\), not those of 1x8x1"),
        ({"state": (4, 8)}, r"state is 3x\?, not 4x8"),
        ({"ids": (1, 8), "mask": (1, 9)}, "length is one size: it cannot be 8 and 9"),
    ],
)
def test_mistakes(given: dict[str, tuple[int, ...]], says: str) -> None:
    model = two_inputs()
    before = shapes(model)
    with pytest.raises(UserError, match=says):
        fix(model, given)
    assert shapes(model) == before


def test_a_file_of_that_size_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    models.save(two_inputs(), path)
    with sized(path, {"ids": (1, 8), "state": (None, 2)}) as made:
        assert made != path
        assert made.name == path.name
        assert shapes(models.load(made)) == [(1, 8), (1, 8), (3, 2), (1, 8)]
        onnx.checker.check_model(onnx.load(made), full_check=True)
    assert not made.exists()
    for nothing in (None, {}, {"ids": (None, None)}):
        with sized(path, nothing) as made:
            assert made == path
