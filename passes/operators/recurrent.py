"""Rules for LSTM, GRU and RNN: hidden units, which every gate has a row and a column for.

    W [directions, gates * H, I],  R [directions, gates * H, H],  B [directions, 2 * gates * H]

A unit's rows in all gates, its column of R and its place in the states are one label, the same in
both directions. Reading is seen as two layers, W over the input and R over the states, so that
liveness finds which units matter to a unit that matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Axes, Labels, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts, constant_array
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Keep, Operator, opaque

# the last gate proposes the new content
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
DEFAULT_ACTIVATIONS = {
    "GRU": ["Sigmoid", "Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "RNN": ["Tanh"],
}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent node whose weights are known."""

    node: ir.Node
    source: ir.Value
    w: ir.Value
    r: ir.Value
    states: tuple[ir.Value, ...]  # initial ones
    results: tuple[ir.Value, ...]  # with the units on their last axis
    vectors: tuple[tuple[ir.Value, int], ...]  # biases and peepholes, and how often units repeat
    units: int

    @property
    def name(self) -> str:
        """The node's, or that of its weights."""
        return str(self.node.name or self.r.name)

    @property
    def gates(self) -> int:
        """Rows of a unit."""
        return GATES[self.node.op_type]


def recurrent(node: ir.Node) -> Recurrent | None:
    """The node with its parts, None where a weight is computed or a size is not known."""
    if node.op_type not in GATES or node.domain not in ("", "ai.onnx"):
        return None
    inputs = [*node.inputs, *[None] * 8][:8]
    source, w, r, bias, _, *rest = inputs
    states, peepholes = rest[:2], rest[2]
    if source is None or w is None or r is None or rank(source) != 3:
        return None
    units, gates = static_size(r, 2), GATES[node.op_type]
    vectors = [(bias, 2 * gates), (peepholes, 3)]
    weights = [value for value in (w, r, bias, peepholes) if value is not None]
    known = all(value.const_value is not None for value in weights)
    if not units or not known or static_size(w, 1) != gates * units:
        return None
    return Recurrent(
        node,
        source,
        w,
        r,
        tuple(value for value in states if value is not None),
        tuple(value for value in node.outputs if value.uses() or value.is_graph_output()),
        tuple((value, repeat) for value, repeat in vectors if value is not None),
        units,
    )


def couple_recurrent(node: ir.Node, axes: Axes) -> None:
    """Units are cut from every gate, state and result; time, batch and directions stay whole."""
    cell = recurrent(node)
    if cell is None or any(rank(v) is None for v in (*cell.states, *cell.results)):
        opaque(node, axes)
        return
    units: Labels = axes.of(cell.r, 2)
    tied = [(cell.w, 1, cell.gates), (cell.r, 1, cell.gates)]
    tied += [(value, 1, repeat) for value, repeat in cell.vectors]
    tied += [(value, (rank(value) or 0) - 1, 1) for value in (*cell.states, *cell.results)]
    for value, axis, repeat in tied:
        axes.assign(value, axis, np.tile(units, repeat))
    axes.assign(cell.w, 2, axes.of(cell.source, 2))
    mixed = [(cell.source, 2), (cell.w, 2), (cell.r, 2), *((v, a) for v, a, _ in tied)]
    for each in (*node.inputs, *node.outputs):
        for axis in range((rank(each) or 0) if each is not None else 0):
            if each is not None and (each, axis) not in mixed:
                axes.pin_axis(each, axis, f"{node.op_type} ({node.name})")


def inner_layers(node: ir.Node) -> list[Layer]:
    """Return the gates' layers: the input through W, the units through R.

    Not ``uniform``: a constant other than zero is left where it is.
    """
    cell = recurrent(node)
    if cell is None or not cell.results:
        return []
    states = cell.results[0]
    rows = [(cell.source, 2, cell.w), (states, (rank(states) or 0) - 1, cell.r)]
    return [
        Layer(node, source, axis, weight, 2, 1, weight, 1, None, uniform=False)
        for source, axis, weight in rows
    ]


def recurrent_constants(node: ir.Node, facts: Facts) -> None:
    """Units that are zero at every step.

    A unit proposes nothing while its own rows of the proposing gate (the cell's of an LSTM, the
    hidden one of a GRU, the only one of an RNN) meet nothing but zeros: its state then is a share
    of what it was, zero from the start. Units that rest on one another are assumed to be zero and
    struck off until those left bear each other out.

    An LSTM's cell is ``f * c + i * tanh(0) = f * c`` and its output ``o * tanh(c)``; a GRU's state
    is ``(1 - z) * tanh(0) + z * h = z * h``: zero as long as they begin with zero, whatever the
    gates are. So an initial state that is fed, or is not known to be zero, keeps the unit.
    """
    cell = recurrent(node)
    if cell is None or not _usual(cell):
        return
    zero = _zero_units(cell, facts)
    if zero.any():
        for value in cell.results:
            axis = (rank(value) or 0) - 1
            facts.learn(value, axis, np.where(zero, 0.0, np.nan))


def _usual(cell: Recurrent) -> bool:
    """Whether the activations are those that keep zero."""
    given = list(cell.node.attributes.get_strings("activations", []))
    usual = DEFAULT_ACTIVATIONS[cell.node.op_type]
    return not given or given == usual * (len(given) // len(usual))


def _zero_units(cell: Recurrent, facts: Facts) -> Mask:
    start = np.ones(cell.units, bool)
    for state in cell.states:
        known = facts.of(state, 2)
        start &= np.zeros(cell.units, bool) if known is None else known == 0
    channels = facts.of(cell.source, 2)
    width = static_size(cell.source, 2) or 0
    fed = np.ones(width, bool) if channels is None else ~(channels == 0)
    w, r = (_nonzero(_proposing(value, cell), facts) for value in (cell.w, cell.r))
    steady = start & ~(w & fed).any(axis=(0, 2)) & _unbiased(cell, facts)
    while True:
        # one direction reads its own states only; a unit is taken as zero in both or in none
        left: Mask = steady & ~(r & ~steady).any(axis=(0, 2))
        if (left == steady).all():
            return left
        steady = left


def _proposing(weight: ir.Value, cell: Recurrent) -> Array:
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    rows: Array = array[:, -cell.units :]  # gates in order: i o f c of an LSTM, z r h of a GRU
    return rows


def _nonzero(rows: Array, facts: Facts) -> NDArray[np.bool_]:
    size = np.abs(rows.astype(np.float64))
    bounds = facts.zero.bounds(np.abs(rows).reshape(-1, rows.shape[-1]))
    return np.asarray(size > bounds.reshape(*rows.shape[:2], 1))


def _unbiased(cell: Recurrent, facts: Facts) -> Mask:
    """Units whose proposing gate adds no bias in any direction."""
    biases = [value for value, repeat in cell.vectors if repeat == 2 * cell.gates]
    if not biases:
        return np.ones(cell.units, bool)
    array = constant_array(biases[0])
    if array is None:
        return np.zeros(cell.units, bool)
    halves = array.astype(np.float64).reshape(len(array), 2, cell.gates, cell.units)
    content = halves[:, :, -1]  # [directions, of W and of R, units]
    apart = cell.node.attributes.get_int("linear_before_reset", False)
    if not apart:  # the two are added as they are
        content = content.sum(axis=1, keepdims=True)
    return np.asarray((facts.zero.scalars(content) == 0).all(axis=(0, 1)))


def edit_recurrent(node: ir.Node, keep: Keep) -> None:
    """The attribute counts the units that stay."""
    units = keep.of(node.inputs[2], 2)
    if units is not None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(units.sum()))


# operators whose result holds nothing but what their first input holds
MOVING = (
    *("Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
)


def drop_zero_states(model: ir.Model) -> bool:
    """Leave out initial states that are all zero, as absent ones are; True if there were any.

    Exporters take the states of all layers from one tensor of zeros, which would join their units.
    """
    dropped = False
    for node in list(model.graph.all_nodes()):
        for index in (5, 6) if recurrent(node) is not None else ():
            state = node.inputs[index] if index < len(node.inputs) else None
            if state is not None and _is_zero(state):
                node.replace_input_with(index, None)
                dropped = True
    if dropped:
        common.RemoveUnusedNodesPass()(model)
    return dropped


def _is_zero(value: ir.Value) -> bool:
    while (array := constant_array(value)) is None:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type == "ConstantOfShape":
            given = node.attributes.get_tensor("value", None)
            return given is None or not given.numpy().any()
        source = node.inputs[0] if node.op_type in MOVING else None
        if source is None:
            return False
        value = source
    return bool(array.dtype.kind == "f" and not array.any())


OPERATORS = tuple(
    Operator(
        name,
        couple=couple_recurrent,
        constants=recurrent_constants,
        edit=edit_recurrent,
        inner_layers=inner_layers,
    )
    for name in GATES
)
