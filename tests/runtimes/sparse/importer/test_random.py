"""Random networks of all operators that lowering knows, against the interpreter."""

from __future__ import annotations

import random

import generators
import numpy as np
import onnx_ir as ir
import pytest
from lowered import agree, random_feeds
from plan_interpreter import evaluate

from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.sparse.importer.operators import TABLE
from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower

INTEGERS = ("Mod",)  # is known of integers alone, and these networks have floats
KNOWN = tuple(op for op in generators.GENERATORS if op in TABLE and op not in INTEGERS)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks grow of what lowering knows, so that few are refused."""
    everything = generators.available
    monkeypatch.setattr(
        generators, "available", lambda op, opset: op in KNOWN and everything(op, opset)
    )


def as_float32(model: ir.Model) -> ir.Model:
    """A network of float64 as lowering takes it."""
    float32, float64 = ir.TensorType(ir.DataType.FLOAT), ir.DataType.DOUBLE
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == float64:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.tensor(array, name=value.name), float32
    for node in model.graph:
        to = node.attributes.get("to")
        if to is not None and to.value == int(float64):
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        for output in node.outputs:
            output.type = float32 if output.dtype == float64 else output.type
    for value in model.graph.inputs:
        value.type = float32 if value.dtype == float64 else value.type
    return model


def check(operator: str, seed: int) -> bool:
    """Grow, lower, compare in float64; whether it was lowered."""
    model = as_float32(generators.grow(random.Random(f"{operator}{seed}"), operator))
    dims = [value.shape[0] for value in model.graph.inputs if value.shape is not None]
    batch = 2 if isinstance(dims[0], int) else 1 + seed % 4
    feeds = random_feeds(model, batch, seed)
    plan = lower(model, batch)
    if isinstance(plan, Refusal):
        return False
    try:
        expected = Evaluator(model, float64=True).run(feeds)
    except Exception:  # a network whose sizes hold for the batch it was grown with alone
        assert batch != 2
        return False
    found = evaluate(plan, feeds)
    for name, wanted in expected.items():
        agree(found[name], wanted)
    return True


@pytest.mark.parametrize("operator", KNOWN)
def test_around_each_operator(operator: str) -> None:
    lowered = [check(operator, seed) for seed in range(3)]
    assert any(lowered)


@pytest.mark.slow
def test_many() -> None:
    lowered = [check(operator, seed) for operator in KNOWN for seed in range(3, 6)]
    assert np.mean(lowered) > 0.9
