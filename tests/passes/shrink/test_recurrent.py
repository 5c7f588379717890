"""Exact shrink of recurrent layers: hidden units, in every form that exporters write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from net import Net
from shrinking import shrink
from torch import nn

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes.operators import recurrent
from prunedeploy.passes.operators.table import OPERATORS
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
UNITS, CHANNELS = 6, 5
DEAD = [1, 4]


def cell(
    net: Net,
    operator: str,
    *,
    dead: object = DEAD,
    unread: object = (),
    directions: int = 1,
    peepholes: bool = False,
    state: str = "",
    bias: float = 0.0,
    outputs: int = 1,
    **options: object,
) -> list[str]:
    """One recurrent node over the rows of the input, its dead units proposing only ``bias``."""
    gates, r = GATES[operator], net.random
    w = r.standard_normal((directions, gates, UNITS, CHANNELS))
    h = r.standard_normal((directions, gates, UNITS, UNITS)) / 2
    b = r.standard_normal((directions, 2, gates, UNITS))
    for array in (w, h):
        array[:, -1, list(dead)] = 0
    b[:, :, -1, list(dead)] = bias
    h[..., list(unread)] = 0
    rows = net.node("Squeeze", "input", net.weight(np.array([1])))
    x = net.node("Transpose", rows, perm=[1, 0, 2])
    flat = (array.reshape(directions, -1, array.shape[-1]) for array in (w, h))
    inputs = [x, *(net.weight(array) for array in flat), net.weight(b.reshape(directions, -1))]
    inputs += ["", state] if operator != "LSTM" else ["", state, state]
    if peepholes:
        inputs.append(net.weight(r.standard_normal((directions, 3 * UNITS))))
    options.setdefault("direction", "forward")
    found = net.node(operator, *inputs, outputs=outputs, hidden_size=UNITS, **options)
    return [found] if outputs == 1 else found


def sequences() -> Net:
    net = Net(channels=1, size=CHANNELS)
    net.inputs = [net._info("input", ["batch", 1, 7, CHANNELS])]
    return net


def head(net: Net, y: str, directions: int = 1, unread: object = ()) -> ir.Model:
    turned = net.node("Transpose", y, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", turned, net.weight(np.array([0, -1, directions * UNITS])))
    w = net.random.standard_normal((directions, UNITS, 3))
    w[:, list(unread)] = 0
    return net.model(net.node("MatMul", flat, net.weight(w.reshape(-1, 3))))


def units(model: ir.Model) -> int:
    (node,) = (node for node in model.graph if node.op_type in GATES)
    assert node.attributes.get_int("hidden_size", 0) == node.inputs[2].shape[2]
    return int(node.inputs[2].shape[2])


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_units_that_are_zero_for_ever(operator: str, direction: str) -> None:
    net = sequences()
    count = 2 if direction == "bidirectional" else 1
    (y,) = cell(net, operator, directions=count, direction=direction)
    assert units(shrink(head(net, y, count)).model) == UNITS - len(DEAD)


@pytest.mark.parametrize("after", [0, 1])
def test_reset_gates(after: int) -> None:
    net = sequences()
    (y,) = cell(net, "GRU", linear_before_reset=after)
    assert units(shrink(head(net, y)).model) == UNITS - len(DEAD)


@pytest.mark.parametrize("operator", GATES)
def test_a_bias_keeps_a_unit_alive(operator: str) -> None:
    net = sequences()
    (y,) = cell(net, operator, bias=0.3)
    assert units(shrink(head(net, y)).model) == UNITS


def test_biases_that_cancel_do_not_count_apart() -> None:
    for after, left in ((0, UNITS - len(DEAD)), (1, UNITS)):
        net = sequences()
        (y,) = cell(net, "GRU", bias=0.5, linear_before_reset=after)
        b = next(name for name, w in net.weights.items() if w.shape == (1, 6 * UNITS))
        net.weights[b].reshape(2, 3, UNITS)[1, -1, DEAD] *= -1
        assert units(shrink(head(net, y)).model) == left


@pytest.mark.parametrize("operator", GATES)
def test_units_that_nobody_reads(operator: str) -> None:
    net = sequences()
    (y,) = cell(net, operator, dead=(), unread=[2, 5])
    assert units(shrink(head(net, y, unread=[2, 5])).model) == UNITS - 2


def test_units_that_only_one_another_read() -> None:
    """A unit read by itself and by another that nobody reads: marking finds both."""
    net = sequences()
    (y,) = cell(net, "LSTM", dead=())
    name = next(name for name, w in net.weights.items() if w.shape == (1, 4 * UNITS, UNITS))
    rows = net.weights[name].reshape(4, UNITS, UNITS)
    alive = [u for u in range(UNITS) if u not in DEAD]
    for unit in DEAD:
        rows[:, alive, unit] = 0
    assert units(shrink(head(net, y, unread=DEAD)).model) == UNITS - len(DEAD)


def test_zeros_that_rest_on_one_another() -> None:
    """Rows that read each other's zero: assumed together, they bear each other out."""
    net = sequences()
    (y,) = cell(net, "LSTM")
    name = next(name for name, w in net.weights.items() if w.shape == (1, 4 * UNITS, UNITS))
    net.weights[name].reshape(4, UNITS, UNITS)[3, 1, 4] = 0.7
    assert units(shrink(head(net, y)).model) == UNITS - len(DEAD)


def test_dead_input_channels() -> None:
    net = sequences()
    (y,) = cell(net, "GRU", dead=())
    w = next(name for name, w in net.weights.items() if w.shape == (1, 3 * UNITS, CHANNELS))
    before = net.weight(net.random.standard_normal((CHANNELS, CHANNELS)), "before")
    net.weights[before][:, 3] = 0
    net.weights[w][:, :, 0] = 0
    node = next(node for node in net.nodes if node.op_type == "GRU")
    matmul = net.node("MatMul", node.input[0], before)
    net.nodes.insert(net.nodes.index(node), net.nodes.pop())
    node.input[0] = matmul
    model = shrink(head(net, y)).model
    assert model.graph.initializers["before"].shape == (CHANNELS, CHANNELS - 2)


@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_initial_states(fill: float) -> None:
    net = sequences()
    batch = net.node("Shape", "input", end=1)
    one = net.weight(np.array([1])), net.weight(np.array([UNITS]))
    target = net.node("Concat", one[0], batch, one[1], axis=0)
    state = net.node("Expand", net.weight(np.array(fill)), target)
    y, h, c = cell(net, "LSTM", state=state, peepholes=True, outputs=3)
    total = net.node("Concat", y, net.node("Unsqueeze", h, net.weight(np.array([0]))), axis=0)
    total = net.node("Add", total, net.node("Unsqueeze", c, net.weight(np.array([0]))))
    model = shrink(head(net, total)).model
    assert units(model) == (UNITS - len(DEAD) if not fill else UNITS)


def test_computed_initial_states_follow() -> None:
    net = sequences()
    first = net.node("ReduceMean", "input", net.weight(np.array([2])), keepdims=0)
    w = net.random.standard_normal((CHANNELS, UNITS))
    w[:, DEAD] = 0
    state = net.node("MatMul", first, net.weight(w, "first"))
    state = net.node("Transpose", state, perm=[1, 0, 2])
    (y,) = cell(net, "LSTM", state=state)
    model = shrink(head(net, y)).model
    assert units(model) == UNITS - len(DEAD)
    assert model.graph.initializers["first"].shape[1] == UNITS - len(DEAD)


def test_other_activations_are_left_alone() -> None:
    net = sequences()
    (y,) = cell(net, "RNN", activations=["Sigmoid"])
    assert units(shrink(head(net, y)).model) == UNITS


def test_an_output_of_the_network_is_a_reason() -> None:
    net = sequences()
    (y,) = cell(net, "LSTM")
    found = shrink(net.model(y))
    assert units(found.model) == UNITS
    assert any(n.status == "refused" and n.count == len(DEAD) for n in found.result.notes)


class Network(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.cell = kind(CHANNELS, UNITS, batch_first=True, **options)
        width = UNITS * (2 if self.cell.bidirectional else 1)
        self.output = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.cell(x)
        return self.output(y)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.LSTM, {}), (nn.GRU, {}), (nn.LSTM, {"bidirectional": True, "num_layers": 2})],
    ids=["lstm", "gru", "deep"],
)
@torch.no_grad()
def test_exported_from_torch(kind: Callable[..., nn.RNNBase], options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = Network(kind, **options).eval()
    gate = 2  # torch has i f g o and r z n: the proposing gate is the third of both
    for name, parameter in network.cell.named_parameters():
        if "_l0" in name:
            parameter[[gate * UNITS + unit for unit in DEAD]] = 0
    model = to_model(network, (2, 7, CHANNELS))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=1)
    before = Evaluator(model, float64=True).run(feeds)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(before, Evaluator(model, float64=True).run(feeds), 1e-10).passed
    nodes = [node for node in model.graph if node.op_type in GATES]
    assert nodes[0].attributes.get_int("hidden_size", 0) == UNITS - len(DEAD)
    assert all(len(node.inputs) < 6 or node.inputs[5] is None for node in nodes)


def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = OPERATORS["LSTM"]
    broken = replace(row, inner_layers=None)  # what the gates read is forgotten
    monkeypatch.setitem(OPERATORS, "LSTM", broken)
    net = sequences()
    (y,) = cell(net, "LSTM", dead=())
    with pytest.raises((AssertionError, passes.PassError)):
        shrink(head(net, y, unread=DEAD))


def test_a_gate_taken_for_another_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        recurrent, "_proposing", lambda value, found: value.const_value.numpy()[:, : found.units]
    )
    monkeypatch.setattr(recurrent, "_unbiased", lambda found, facts: np.ones(found.units, bool))
    net = sequences()
    (y,) = cell(net, "LSTM", dead=())
    for name in list(net.weights)[1:3]:
        net.weights[name].reshape(4, UNITS, -1)[0, DEAD] = 0
    with pytest.raises((AssertionError, passes.PassError)):
        shrink(head(net, y))
