"""LSTM, GRU and RNN as the ONNX operators define them, one step at a time.

``layout`` came with opset 14; everything else is as it was in version 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.reference.elementwise import sigmoid, softplus
from prunedeploy.reference.table import Kernel, Numbers, Table, same

# of one direction: inputs of one step, gates x (rows for W and R), states -> states
Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]
Activation = Callable[[Any], Any]

PLAIN: dict[str, Activation] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
}
# Those with numbers, and what the numbers are where a node gives none; None: it must give them.
SCALED: dict[str, tuple[Callable[[Any, Any, Any], Any], tuple[float | None, ...]]] = {
    "affine": (lambda x, a, b: a * x + b, (None, None)),
    "elu": (lambda x, a, _: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), (1.0,)),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "leakyrelu": (lambda x, a, _: np.where(x < 0, a * x, x), (0.01,)),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), (None, None)),
    "thresholdedrelu": (lambda x, a, _: np.where(x > a, x, 0), (1.0,)),
}


def _numbers(node: ir.Node, name: str) -> list[float]:
    return [float(np.float32(n)) for n in node.attributes.get_floats(name, [])]


def _functions(node: ir.Node, names: list[str]) -> list[Activation]:
    """The activations in order; those with parameters take the next ones of the node's lists."""
    functions: list[Activation] = []
    given = [_numbers(node, "activation_alpha"), _numbers(node, "activation_beta")]
    for name in names:
        if name in PLAIN:
            functions.append(PLAIN[name])
            continue
        if name not in SCALED:
            raise ValueError(f"activation {name} is not known")
        function, usual = SCALED[name]
        numbers = [
            rest.pop(0) if rest else default for rest, default in zip(given, usual, strict=False)
        ]
        if None in numbers:
            raise ValueError(f"activation {name} without its numbers")
        functions.append(_scaled(function, [*numbers, 0.0][:2]))
    return functions


def _scaled(function: Callable[[Any, Any, Any], Any], numbers: list[Any]) -> Activation:
    return lambda x: function(x, x.dtype.type(numbers[0]), x.dtype.type(numbers[1]))


def _activations(node: ir.Node, direction: int, usual: list[str]) -> list[Activation]:
    """The activations of one direction; gates are clipped first, as in ONNX Runtime."""
    names = list(node.attributes.get_strings("activations", [])) or usual * (direction + 1)
    functions = _functions(node, [name.lower() for name in names])
    chosen = functions[direction * len(usual) :][: len(usual)]
    if len(chosen) < len(usual):
        raise ValueError(f"activations {list(names)} are not enough")
    limit = node.attributes.get_float("clip", np.inf)
    clipped = [_clipped(function, limit) for function in chosen[:2]]
    return [*clipped, *chosen[2:]]  # a cell's content is not


def _clipped(activation: Activation, limit: float) -> Activation:
    return lambda x: activation(np.clip(x, -limit, limit))


def _sweep(step: Step, x: Array, states: tuple[Any, ...], lengths: Array) -> tuple[Array, ...]:
    """States after every step [T, B, H], zero past the end of a sequence, and the last ones."""
    outputs = np.zeros((len(x), *states[0].shape), x.dtype)
    for time, inputs in enumerate(x):
        within = np.greater(lengths, time)[:, None]
        fresh = step(inputs, states)
        states = tuple(np.where(within, new, old) for new, old in zip(fresh, states, strict=True))
        outputs[time] = np.where(within, states[0], 0)
    return outputs, *states


def _reversed(x: Array, lengths: Array) -> Array:
    """Every sequence back to front, what pads it left in place."""
    turned = x.copy()
    for index, length in enumerate(lengths.tolist()):
        turned[:length, index] = x[:length, index][::-1]
    return turned


def _kernel(make: Callable[..., Step], states: int) -> Kernel:
    """The kernel of a cell that carries so many states from step to step.

    ``make`` returns the step of one direction, from the node, the direction, its W, R and biases,
    and what inputs follow the states.
    """

    def run(
        node: ir.Node,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        *others: Array | None,
    ) -> tuple[Array, ...]:
        initial = [*others[:states], *[None] * states][:states]

        def step_of(direction: int) -> Step:
            biases = _halves(b, r, direction)
            return make(node, direction, w[direction], r[direction], biases, *others[states:])

        return _run(node, x, r, lengths, initial, [step_of(each) for each in range(len(w))])

    return run


def _run(
    node: ir.Node,
    x: Array,
    r: Array,
    lengths: Array | None,
    initial: list[Array | None],
    steps: list[Step],
) -> tuple[Array, ...]:
    """All directions: Y and the last states, in the layout that is asked for."""
    units = node.attributes.get_int("hidden_size", r.shape[2])
    if units != r.shape[2]:
        raise ValueError(f"hidden_size is {units}, the weights have {r.shape[2]} units")
    batch_first = bool(node.attributes.get_int("layout", 0))
    if batch_first:
        x = np.swapaxes(x, 0, 1)
        initial = [None if state is None else np.swapaxes(state, 0, 1) for state in initial]
    backward = node.attributes.get_string("direction", "forward")
    ends = np.full(x.shape[1], len(x)) if lengths is None else lengths
    zeros = np.zeros((len(steps), x.shape[1], r.shape[2]), x.dtype)
    states = [zeros if state is None else state for state in initial]
    directions = []
    for direction, step in enumerate(steps):
        turned = backward == "reverse" or direction == 1
        inputs = _reversed(x, ends) if turned else x
        start = tuple(state[direction] for state in states)
        outputs, *last = _sweep(step, inputs, start, ends)
        directions.append([_reversed(outputs, ends) if turned else outputs, *last])
    results = [
        np.stack(parts, 1 if i == 0 else 0) for i, parts in enumerate(zip(*directions, strict=True))
    ]
    if batch_first:
        moved = [np.transpose(results[0], (2, 0, 1, 3))]
        results = moved + [np.swapaxes(state, 0, 1) for state in results[1:]]
    return tuple(results)


def _halves(b: Array | None, r: Array, direction: int) -> tuple[Any, Any]:
    """Biases of W and of R."""
    if b is None:
        return np.zeros(r.shape[1], r.dtype), np.zeros(r.shape[1], r.dtype)
    return b[direction, : r.shape[1]], b[direction, r.shape[1] :]


def _lstm(
    node: ir.Node,
    direction: int,
    w: Numbers,
    r: Numbers,
    biases: tuple[Any, Any],
    peepholes: Numbers | None = None,
) -> Step:
    """Gates in the order i, o, f, c; peepholes i, o, f."""
    coupled = node.attributes.get_int("input_forget", 0)
    bias = sum(biases)
    peep = np.zeros(3 * r.shape[1], r.dtype) if peepholes is None else peepholes[direction]
    pi, po, pf = np.split(peep, 3)
    f, g, k = _activations(node, direction, ["Sigmoid", "Tanh", "Tanh"])

    def step(inputs: Numbers, states: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, cell = states
        total = inputs @ w.T + hidden @ r.T + bias
        it, ot, ft, ct = np.split(total, 4, axis=-1)
        enter = f(it + pi * cell)
        forget = 1 - enter if coupled else f(ft + pf * cell)
        cell = forget * cell + enter * g(ct)
        return f(ot + po * cell) * k(cell), cell

    return step


def _gru(node: ir.Node, direction: int, w: Numbers, r: Numbers, biases: tuple[Any, Any]) -> Step:
    """Gates in the order z, r, h."""
    after = node.attributes.get_int("linear_before_reset", 0)
    wb, rb = (np.split(half, 3) for half in biases)
    wz, wr, wh = np.split(w, 3)
    rz, rr, rh = np.split(r, 3)
    f, g = _activations(node, direction, ["Sigmoid", "Tanh"])

    def step(inputs: Numbers, states: tuple[Any, ...]) -> tuple[Any, ...]:
        (hidden,) = states
        z = f(inputs @ wz.T + hidden @ rz.T + wb[0] + rb[0])
        reset = f(inputs @ wr.T + hidden @ rr.T + wb[1] + rb[1])
        inside = hidden if after else reset * hidden
        recalled = inside @ rh.T + rb[2]
        recalled = reset * recalled if after else recalled
        return ((1 - z) * g(inputs @ wh.T + recalled + wb[2]) + z * hidden,)

    return step


def _rnn(node: ir.Node, direction: int, w: Numbers, r: Numbers, biases: tuple[Any, Any]) -> Step:
    """The simple recurrent layer, which has one gate."""
    bias = sum(biases)
    (f,) = _activations(node, direction, ["Tanh"])
    return lambda inputs, states: (f(inputs @ w.T + states[0] @ r.T + bias),)


VERSIONS = (7, 14, 22)

TABLE: Table = {
    "GRU": same(_kernel(_gru, 1), *VERSIONS),
    "LSTM": same(_kernel(_lstm, 2), *VERSIONS),
    "RNN": same(_kernel(_rnn, 1), *VERSIONS),
}
