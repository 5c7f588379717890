"""LSTM, GRU and RNN as torch's own, which keep the gates in another order.

ONNX has W [directions, gates * H, I], R [directions, gates * H, H], B [directions, 2 * gates * H]
and time in front; what torch's operators have no word for is refused.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from prunedeploy.to_torch.values import CannotExpress

# where torch's gates stand among ONNX's: input, output, forget, cell; update, reset, hidden
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
ACTIVATIONS = {
    "LSTM": (("sigmoid", "tanh", "tanh"),),
    "GRU": (("sigmoid", "tanh"),),
    "RNN": (("tanh",), ("relu",)),
}


def recurrent(
    node: ir.Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """All states, the last ones, and for an LSTM the last cells."""
    activation = _activation(node)
    if lengths is not None or peepholes is not None:
        raise CannotExpress("lengths of sequences or peepholes")
    first = bool(node.attributes.get_int("layout", 0))
    x = x.transpose(0, 1) if first else x
    given = [s.transpose(0, 1) if first and s is not None else s for s in (hidden, cell)]
    reverse = node.attributes.get_string("direction", "forward") == "reverse"
    x = x.flip(0) if reverse else x
    count, units = w.shape[0], r.shape[2]
    states = [x.new_zeros(count, x.shape[1], units) if s is None else s for s in given]
    weights = _weights(node.op_type, w, r, b)
    options = (b is not None, 1, 0.0, False, count == 2, False)
    last: tuple[Tensor, ...]
    if node.op_type == "LSTM":
        outputs, *cells = torch.lstm(x, states, weights, *options)
        last = tuple(cells)
    else:
        run: Any = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(activation, torch.gru)
        outputs, state = run(x, states[0], weights, *options)
        last = (state,)
    outputs = outputs.flip(0) if reverse else outputs
    split = outputs.reshape(*outputs.shape[:2], count, units)  # time, batch, direction
    if first:
        return split.transpose(0, 1), *(state.transpose(0, 1) for state in last)
    return split.transpose(1, 2), *last


def _activation(node: ir.Node) -> str:
    """The one that an RNN applies; "" for the others, whose gates torch knows in one form only."""
    kind, attributes = node.op_type, node.attributes
    both = attributes.get_string("direction", "forward") == "bidirectional"
    names = tuple(name.lower() for name in attributes.get_strings("activations", []))
    usual = [chosen * (1 + both) for chosen in ACTIVATIONS[kind]]
    other = bool(names) and names not in usual
    coupled = bool(attributes.get_int("input_forget", 0))
    if other or coupled or "clip" in attributes:
        raise CannotExpress("activations other than the usual, a clip, or coupled gates")
    if kind == "GRU" and not attributes.get_int("linear_before_reset", 0):
        raise CannotExpress("the reset gate before the product")
    return (names or usual[0])[0] if kind == "RNN" else ""


def _weights(kind: str, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """The weights that torch lists for each direction: W, R and their biases."""
    weights = []
    for direction in range(w.shape[0]):
        parts = [w[direction], r[direction]]
        if b is not None:
            parts += b[direction].chunk(2)
        weights += [_reordered(kind, part) for part in parts]
    return weights


def _reordered(kind: str, part: Tensor) -> Tensor:
    gates = part.chunk(len(ORDER[kind]))
    return torch.cat([gates[index] for index in ORDER[kind]])
