"""LSTM, GRU and RNN, against ONNX Runtime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import plan_interpreter
import pytest
from lowered import Small, agree, check, ints, refusal, steps

from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.sparse.plan.lower import Plan, lower

STEPS = 5  # the first axis, so it is what plans take for the batch
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def layer(
    op: str,
    direction: str = "forward",
    units: int = 6,
    batch: int = 1,
    states: bool = False,
    bias: bool = True,
    outputs: int = 0,
    **attributes: Any,
) -> ir.Model:
    """One recurrent layer with all its outputs, or the first ``outputs``."""
    net, sides, rows = Small(), DIRECTIONS[direction], GATES[op] * units
    first = attributes.get("layout", 0)
    x = net.input(*((batch, 5) if first else (STEPS, batch)), 3)
    weight, recurrent = net.normal(sides, rows, 3), net.normal(sides, rows, units, scale=0.5)
    recurrent *= net.random.random(recurrent.shape) < 0.4
    inputs = [x, weight, recurrent, net.normal(sides, 2 * rows) if bias else None, None]
    if states:
        shape = (batch, sides, units) if first else (sides, batch, units)
        inputs += [net.input(*shape) for _ in range(1 + (op == "LSTM"))]
    made = net.node(
        op, *inputs, outputs=outputs or 2 + (op == "LSTM"),
        hidden_size=units, direction=direction, **attributes,
    )  # fmt: skip
    return net.model(*(made if isinstance(made, list) else [made]))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_recurrent_layers(op: str, direction: str) -> None:
    for batch, states in itertools.product((1, 3), (False, True)):
        check(layer(op, direction, batch=batch, states=states), STEPS)
    found = steps(check(layer(op, direction, outputs=1), STEPS))
    assert found["Conv"] == found["Recurrence"] == 1  # all steps' inputs at once


@pytest.mark.parametrize("op", GATES)
def test_their_forms(op: str) -> None:
    check(layer(op, bias=False), STEPS)
    usual = {"LSTM": ["Sigmoid", "Tanh", "Relu"], "GRU": ["HardSigmoid", "Relu"], "RNN": ["Relu"]}
    check(layer(op, activations=usual[op]), STEPS)
    check(layer(op, units=1, batch=2), STEPS)


@pytest.mark.parametrize("op", GATES)
def test_the_batch_may_be_first(op: str) -> None:
    """ONNX Runtime does not know it: against the reference evaluator."""
    for states in (False, True):
        model = layer(op, "bidirectional", batch=3, states=states, layout=1)
        plan = lower(model, 3)
        assert isinstance(plan, Plan)
        random = np.random.default_rng(1)
        feeds = {p.name: random.standard_normal(p.shape).astype(p.dtype) for p in plan.inputs}
        wanted = Evaluator(model).run(feeds)
        for name, value in plan_interpreter.evaluate(plan, feeds).items():
            agree(value, wanted[name])


def test_a_gru_may_reset_before_or_after_it_multiplies() -> None:
    for batch, after in itertools.product((1, 2), (0, 1)):
        check(layer("GRU", "bidirectional", batch=batch, linear_before_reset=after), STEPS)


def test_numbers_of_activations() -> None:
    functions = {"activations": ["HardSigmoid", "LeakyRelu", "Elu"]}
    check(layer("LSTM", **functions), STEPS)
    numbers = {"activation_alpha": [0.3, 0.02, 0.7], "activation_beta": [0.4]}
    check(layer("LSTM", **functions, **numbers), STEPS)


def test_a_constant_first_state_of_an_lstm() -> None:
    net = Small()
    weights = net.normal(1, 16, 3), net.normal(1, 16, 4), net.normal(1, 32)
    state = net.normal(1, 1, 4)
    y = net.node("LSTM", net.input(STEPS, 1, 3), *weights, None, None, state, hidden_size=4)
    plan = check(net.model(y), STEPS)
    (step,) = (step for step in plan.steps if type(step).__name__ == "Recurrence")
    assert step.hidden is not None


def test_layers_follow_each_other() -> None:
    net = Small()
    x = net.input(7, 2, 3)
    for op, inputs in (("LSTM", 3), ("GRU", 8), ("RNN", 8)):
        rows = GATES[op] * 4
        weights = net.normal(2, rows, inputs), net.normal(2, rows, 4, scale=0.4)
        y = net.node(op, x, *weights, hidden_size=4, direction="bidirectional")
        x = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), ints(0, 0, -1))
    check(net.model(x), 7)


def test_what_is_not_known_is_refused() -> None:
    assert "clip" in refusal(layer("LSTM", clip=3.0), STEPS).reason
    assert "input_forget" in refusal(layer("LSTM", input_forget=1), STEPS).reason
    assert "Affine" in refusal(layer("RNN", activations=["Affine"]), STEPS).reason
    both = {"direction": "bidirectional", "activations": ["Tanh", "Relu"]}
    assert "different activations" in refusal(layer("RNN", **both), STEPS).reason
    net = Small()
    weights = net.normal(1, 16, 3), net.normal(1, 16, 4), net.normal(1, 32)
    short = np.array([4], np.int32)
    y = net.node("LSTM", net.input(STEPS, 1, 3), *weights, short, hidden_size=4)
    assert "different lengths" in refusal(net.model(y), STEPS).reason
    net = Small()
    inputs = [net.input(STEPS, 1, 3), *weights, short + 1, None, None, net.normal(1, 12)]
    whole = net.node("LSTM", *inputs, hidden_size=4)
    assert "peepholes" in refusal(net.model(whole), STEPS).reason
