"""LSTM, GRU and RNN: a linear layer over all steps at once, and the recurrence that is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer.graph import ConcatOp, RecurrentOp, Tensor
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer
from prunedeploy.runtimes.sparse.plan.steps import Activation

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# functions without numbers, and those whose numbers have these defaults
FUNCTIONS = ("Relu", "Sigmoid", "Softplus", "Tanh")
SCALED = {"Elu": (1.0,), "HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01,)}


@dataclass(frozen=True)
class _Weights:
    """Those of the inputs [D, G * H, I] and of the states [D, G * H, H], and both biases."""

    inputs: Array
    states: Array
    biases: Array  # [2, D, G * H]


def recurrent(call: Call) -> tuple[Tensor, ...]:
    """All hidden states, the last one, and of an LSTM the last cell state."""
    kind, weights = call.node.op_type, _weights(call)
    _refuse(call)
    build, batch_first = call.build, bool(call.integer("layout", 0))
    x = build.transpose(call.real(0), (1, 0, 2)) if batch_first else call.real(0)
    length, batch, _ = x.shape
    directions, rows, units = weights.states.shape
    if not length or call.integer("hidden_size", units) != units:
        raise call.refuse("its sizes do not fit")
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(
        call.string("direction", "forward")
    )
    if backward is None or len(backward) != directions:
        raise call.refuse("its weights do not fit its direction")
    bias, inside = _biases(call, weights)
    linear = weights.inputs.reshape(directions * rows, -1)
    gates = build.transpose(build.linear(x, linear, bias.reshape(-1), 2), (0, 2, 1))
    wanted = (directions, units, batch)
    states = [_state(call, index, wanted, batch_first) for index in (5, 6)[: 1 + (kind == "LSTM")]]
    if kind == "LSTM" and any(states):
        states = [state or Tensor(wanted, value=np.zeros(wanted, np.float32)) for state in states]
    made = RecurrentOp(
        build.name,
        [gates, *(state for state in states if state is not None)],
        Tensor((length + (kind == "LSTM"), *wanted)),
        "lstm" if kind == "LSTM" else "gru" if kind == "GRU" else "rnn",
        weights.states,
        backward,
        _functions(call, directions),
        inside,
    )
    return _results(call, build.add(made), backward, batch_first)


def _weights(call: Call) -> _Weights:
    arrays = [call.constant(index, "weight or bias") for index in (1, 2, 3)]
    inputs, states, biases = (a if a is None else a.astype(np.float32) for a in arrays)
    if inputs is None or states is None:
        raise call.refuse("it has no weights")
    directions, rows, _ = states.shape
    if biases is None:
        biases = np.zeros((directions, 2 * rows), np.float32)
    return _Weights(inputs, states, biases.reshape(directions, 2, rows).swapaxes(0, 1))


def _refuse(call: Call) -> None:
    """Forms that are not known."""
    lengths = call.optional(4)
    whole = call.x.shape[1 if call.integer("layout", 0) else 0]
    if lengths is not None and (lengths.value is None or np.any(lengths.value != whole)):
        raise call.refuse("sequences of different lengths are not known")
    if call.node.op_type == "LSTM" and call.optional(7) is not None:
        peepholes = call.constant(7, "peepholes")
        if peepholes is None or peepholes.any():
            raise call.refuse("peepholes are not known")
    for name in ("clip", "input_forget"):
        value = call.node.attributes.get(name)
        if value is not None and float(value.value) != 0:
            raise call.refuse(f"{name} is not known")


def _biases(call: Call, weights: _Weights) -> tuple[Array, Array | None]:
    """What the linear layer adds, and what a GRU adds to the states' part before it resets it."""
    first, second = weights.biases
    if call.node.op_type != "GRU" or not call.integer("linear_before_reset", 0):
        return first + second, None
    units = weights.states.shape[2]
    outside = second.copy()
    outside[:, 2 * units :] = 0
    return first + outside, second[:, 2 * units :]


def _state(call: Call, index: int, wanted: tuple[int, ...], batch_first: bool) -> Tensor | None:
    """A first state as [D, H, N]; None where it is zero."""
    if call.optional(index) is None:
        return None
    given = call.real(index)
    if given.value is not None and not given.value.any():
        return None
    state = call.build.transpose(given, (1, 2, 0) if batch_first else (0, 2, 1))
    if state.shape != wanted:
        raise call.refuse(f"a state of shape {list(given.shape)} does not fit")
    return state


def _functions(call: Call, directions: int) -> tuple[Activation, ...]:
    """The same of every direction."""
    usual = USUAL[call.node.op_type]
    names = list(call.node.attributes.get_strings("activations", [])) or list(usual) * directions
    if len(names) != len(usual) * directions or names != names[: len(usual)] * directions:
        raise call.refuse("its directions have different activations")
    numbers = [_given(call, f"activation_{name}") for name in ("alpha", "beta")]
    if any(numbers) and directions > 1:
        raise call.refuse("activations with numbers in two directions are not known")
    return tuple(_function(call, name, numbers) for name in names[: len(usual)])


def _given(call: Call, name: str) -> list[float]:
    return [float(np.float32(n)) for n in call.node.attributes.get_floats(name, [])]


def _function(call: Call, name: str, numbers: list[list[float]]) -> Activation:
    """One by name; those with numbers take the next ones that are given."""
    title = next((n for n in (*FUNCTIONS, *SCALED) if n.lower() == name.lower()), None)
    if title is None:
        raise call.refuse(f"activation {name} is not known")
    taken = tuple(
        rest.pop(0) if rest else default
        for rest, default in zip(numbers, SCALED.get(title, ()), strict=False)
    )
    return Activation(title.lower(), taken)


def _results(
    call: Call, y: Tensor, backward: tuple[bool, ...], batch_first: bool
) -> tuple[Tensor, ...]:
    """Parts of what the recurrence computes, in ONNX's order of axes."""
    build, lstm = call.build, call.node.op_type == "LSTM"
    length = y.shape[0] - lstm
    steps = build.part(y, 0, 0, length)
    # [T, D, H, N] -> [T, D, N, H], or [N, T, D, H]
    every = build.transpose(steps, (3, 0, 1, 2) if batch_first else (0, 1, 3, 2))
    ends = [
        build.part(build.part(y, 0, 0 if turned else length - 1, 1), 1, d, 1)
        for d, turned in enumerate(backward)
    ]
    last = ends[0]
    if len(ends) > 1 and call.node.outputs[1:] and _is_read(call.node.outputs[1]):
        last = build.add(ConcatOp(build.name, ends, Tensor((1, *y.shape[1:])), 1))
    states = [last, *([build.part(y, 0, length, 1)] if lstm else [])]
    order = (2, 0, 1) if batch_first else (0, 2, 1)
    return every, *(build.transpose(build.reshape(s, s.shape[1:]), order) for s in states)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


TABLE: dict[str, Importer] = dict.fromkeys(GATES, recurrent)
