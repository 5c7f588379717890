"""Copies through a flattened tensor: removed where they copy in order, kept where they do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import SimplifyGathers
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def apply(model: ir.Model) -> list[str]:
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    before = Evaluator(model).run(feeds)
    passes.run(model, (SimplifyGathers(),), feeds)
    assert verify.compare(before, Evaluator(model).run(feeds), 0.0).passed
    return [node.op_type for node in model.graph]


def strided(
    step: int = 20, order: str = "in order", start: int = 0, length: str = "batch"
) -> ir.Model:
    """A map of [batch, 5, 2, 2], flattened, its elements gathered by computed indices."""
    net = Net(size=2)
    x = net.node("Relu", "input")
    flat = net.node("Reshape", x, net.weight(np.array([-1])))
    count = net.node("Squeeze", net.node("Shape", "input", start=0, end=1), net.weight([0]))
    if length == "shorter":
        count = net.node("Sub", count, net.weight(np.array(1)))
    rows = net.node("Range", net.weight(np.array(start)), count, net.weight(np.array(1)))
    rows = net.node("Mul", rows, net.weight(np.array(step)))
    rows = net.node("Unsqueeze", rows, net.weight(np.array([1, 2, 3])))
    inner = np.arange(20).reshape(1, 5, 2, 2)
    if order == "swapped":
        inner = inner.swapaxes(2, 3)
    planes, pixels = inner[:, :, :1, :1], inner - inner[:, :, :1, :1]
    index = net.node("Add", net.node("Add", rows, net.weight(planes)), net.weight(pixels))
    if start or step > 20:
        index = net.node("Mod", index, net.weight(np.array(40)))
    y = net.node("Gather", flat, index, axis=0)
    model = net.model(str(net.node("Neg", y)))
    if length == "batch":  # as exporters note it; nothing infers the length of a range
        value = next(node.outputs[0] for node in model.graph if node.op_type == "Gather")
        value.shape = ir.Shape(["batch", 5, 2, 2])
    return model


def test_elements_in_order_are_the_tensor() -> None:
    assert apply(strided()) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "options",
    [{"order": "swapped"}, {"step": 10}, {"start": 1}, {"length": "shorter"}],
    ids=["swapped", "overlapping", "shifted", "shorter"],
)
def test_any_other_order_is_kept(options: dict[str, object]) -> None:
    model = strided(**options)  # type: ignore[arg-type]
    before = [node.op_type for node in model.graph]
    assert apply(model) == before


@pytest.mark.parametrize("right", [True, False])
def test_a_fixed_batch(right: bool) -> None:
    net = Net(channels=3, size=2, batch=3)
    flat = net.node("Reshape", net.node("Relu", "input"), net.weight(np.array([-1])))
    index = np.arange(36).reshape(3, 3, 2, 2)
    y = net.node("Gather", flat, net.weight(index if right else index[::-1].copy()), axis=0)
    operators = apply(net.model(str(net.node("Neg", y))))
    assert operators == (["Relu", "Neg"] if right else ["Relu", "Reshape", "Gather", "Neg"])
