"""Branches that compute constants, or that nobody reads, are not computed at all.

Cutting channels alone leaves one channel a layer, because a tensor cannot have none. Here the
whole branch goes:

* an operand of an elementwise operator all of whose channels are known constants becomes an
  initializer of shape [1, C, 1, 1], broadcast where the value was repeated. Adding zero and
  multiplying by one then vanish;
* a part of a Concat whose channels no output can tell from constants goes, its readers take the
  constants over as they do in ``shrink``; constants that must stay, because the concatenation is
  a result of the network or meets an operator without a rule, become a Pad of the part beside;
* a result of the network that is constant is expanded from one number a channel.

What computed them is dead code then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.records import Array, Note, PassResult
from prunedeploy.graph import input_range
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.axes import rank
from prunedeploy.passes.analysis.constants import find_constants
from prunedeploy.passes.analysis.extents import Extent, Extents
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.analysis.ranges import Ranges
from prunedeploy.passes.analysis.settings import Settings
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.names import become_identity, put_before, replace_input, unique_name
from prunedeploy.passes.operators.layers import Weights
from prunedeploy.passes.shrink.plan import analyse
from prunedeploy.passes.simplify.concat_parts import concat_axis, drop_parts, pad_part
from prunedeploy.reference.opsets import opset

# Operators that broadcast the operands at these positions (None: all of them).
BROADCASTING: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum")),
    "PRelu": (1,),
    "Where": (1, 2),
}
# Operand positions at which a number leaves the other operand as it is.
NEUTRAL: dict[str, tuple[tuple[int, ...], float]] = {
    "Add": ((0, 1), 0.0),
    "Sub": ((1,), 0.0),
    "Mul": ((0, 1), 1.0),
    "Div": ((1,), 1.0),
}
EXPAND = 8  # the opset that brought it
SHAPE = "the shape of the result is not known to be the other operand's"


@dataclass(frozen=True)
class RemoveDeadBranches:
    """Replace what is known of whole values by initializers; drop what nobody reads.

    ``zero_threshold`` as in ``ShrinkChannels``. Refuses where the length of a dynamic axis of
    the result would not be known to stay.
    """

    zero_threshold: float = 0.0
    name: ClassVar[str] = "remove-dead-branches"

    @property
    def exact(self) -> bool:
        """Only our own bound on zero is proved not to matter."""
        return self.zero_threshold == 0.0

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        before = len(model.graph)
        settings = Settings(Zero(self.zero_threshold), input_range.of(model))
        infer_shapes(model)
        notes = _fold_values(model.graph, known_constants(model.graph, settings))
        _clean_up(model, notes)
        if any(concat_axis(node) is not None for node in model.graph):
            notes += drop_parts(model, analyse(model.graph, settings))
            _clean_up(model, notes)
            notes += _pad_parts(model.graph, known_constants(model.graph, settings))
            _clean_up(model, notes)
        changed = any(note.status == "taken" for note in notes)
        if gone := before - len(model.graph):
            notes.append(Note("nodes-removed", "graph", "info", "nodes fewer", gone))
        return PassResult(changed, tuple(notes))


def known_constants(graph: ir.Graph, settings: Settings) -> Facts:
    """The constants of all values, for inputs within their stated ranges."""
    ranges = Ranges(graph, settings.stated)
    return find_constants(graph, Weights(settings.zero), settings.zero, ranges)


def _clean_up(model: ir.Model, notes: list[Note]) -> None:
    """Dead code goes, and the shapes are known again."""
    if any(note.status == "taken" for note in notes):
        common.IdentityEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)
        models.drop_unused(model.graph)
        infer_shapes(model)


def whole_constant(value: ir.Value | None, facts: Facts) -> tuple[int, Constants] | None:
    """The axis and the numbers along it, for a computed value that holds nothing else."""
    if value is None or value.producer() is None or not _is_float(value):
        return None
    assert value.dtype is not None
    for axis in range(rank(value) or 0):
        known = facts.of(value, axis)
        if known is not None and known.size:
            with np.errstate(over="ignore"):
                rounded = known.astype(value.dtype.numpy()).astype(np.float64)
            if np.isfinite(rounded).all():
                return axis, known
    return None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _fold_values(graph: ir.Graph, facts: Facts) -> list[Note]:
    """Operands of elementwise operators, and results of the network."""
    extents = Extents(graph)
    notes: list[Note] = []
    for node in list(graph):
        if node.op_type not in BROADCASTING or node.domain not in ("", "ai.onnx"):
            continue
        if whole_constant(node.outputs[0], facts) is None:
            notes += _fold_operands(node, facts, extents)
            _drop_neutral(node, facts, extents)
    for value in list(graph.outputs):
        notes += _fold_output(graph, value, facts, extents)
    return notes


def _fold_operands(node: ir.Node, facts: Facts, extents: Extents) -> list[Note]:
    notes = []
    allowed = BROADCASTING[node.op_type]
    for index, value in enumerate(node.inputs):
        known = whole_constant(value, facts)
        if value is None or known is None or (allowed is not None and index not in allowed):
            continue
        if not _determined(node, index, known[0], extents):
            notes.append(Note("open-shape", _label(value), "refused", SHAPE, len(known[1])))
            continue
        replace_input(node, index, _row(value, *known), _label(value))
        reason = f"constant for every input: an initializer of {node.op_type}"
        notes.append(Note("constant-operand", _label(value), "taken", reason, len(known[1])))
    return notes


def _pad_parts(graph: ir.Graph, facts: Facts) -> list[Note]:
    """Constant parts of a Concat that could not be dropped; one that is left alone passes on."""
    notes: list[Note] = []
    for node in list(graph):
        axis = concat_axis(node)
        if axis is None or whole_constant(node.outputs[0], facts) is not None:
            continue
        for value in list(node.inputs):
            known = whole_constant(value, facts)
            if value is None or known is None or known[0] != axis:
                continue
            reason = pad_part(node, list(node.inputs).index(value), axis, known[1])
            if reason is None:
                why = "constant for every input: a Pad of the part beside it"
                notes.append(Note("concat-part-padded", _label(value), "taken", why, len(known[1])))
            else:
                notes.append(
                    Note("concat-part-kept", _label(value), "refused", reason, len(known[1]))
                )
        if len(node.inputs) == 1 and node.inputs[0] is not None:
            become_identity(node, node.inputs[0])
    return notes


def _label(value: ir.Value) -> str:
    return str(value.name)


def _row(value: ir.Value, axis: int, known: Constants) -> Array:
    """One number an index of ``axis``, of length one along all other axes."""
    shape = [1] * (rank(value) or 0)
    shape[axis] = len(known)
    assert value.dtype is not None
    return known.reshape(shape).astype(value.dtype.numpy())


def _determined(node: ir.Node, index: int, along: int, extents: Extents) -> bool:
    """Whether the result keeps its shape when this operand has a length of its own in one axis."""
    operands = [value for value in node.inputs if value is not None]
    value = node.inputs[index]
    if value is None or any(rank(operand) is None for operand in operands):
        return False
    others = [extents.of(v) for i, v in enumerate(node.inputs) if i != index and v is not None]
    mine = extents.of(value)
    return all(
        axis == along
        or extent == 1
        or any(len(s) >= len(mine) - axis and s[axis - len(mine)] == extent for s in others)
        for axis, extent in enumerate(mine)
    )


def _drop_neutral(node: ir.Node, facts: Facts, extents: Extents) -> None:
    """An addition of zero becomes an Identity, where its result is the other operand's size."""
    positions, number = NEUTRAL.get(node.op_type, ((), 0.0))
    result = node.outputs[0]
    for index in positions:
        operand, other = node.inputs[index], node.inputs[1 - index]
        if operand is None or other is None or operand.const_value is None:
            continue
        same = extents.of(other) == extents.of(result) and rank(result) is not None
        if same and other.dtype == result.dtype and facts.uniform(operand) == number:
            become_identity(node, other)
            return


def _fold_output(graph: ir.Graph, value: ir.Value, facts: Facts, extents: Extents) -> list[Note]:
    """A constant result of the network: one number a channel, expanded to its shape."""
    known, producer = whole_constant(value, facts), value.producer()
    if known is None or producer is None or _expanded(producer):
        return []
    inputs = {
        extent: (source, axis)
        for source in reversed(graph.inputs)
        for axis, extent in enumerate(extents.of(source))
        if not isinstance(extent, int)
    }
    lengths = extents.of(value)
    if any(not isinstance(extent, int) and extent not in inputs for extent in lengths):
        reason = "its shape is not known from the inputs"
        return [Note("open-shape", _label(value), "refused", reason, 1)]
    if opset(graph) < EXPAND:
        reason = "there is no Expand before opset 8"
        return [Note("opset-too-old", _label(value), "refused", reason, 1)]
    expand = ir.node("Expand", [None, None])
    expand.name = unique_name(graph, f"{_label(value)}.constant")
    new, name = expand.outputs[0], value.name
    new.shape, new.type = value.shape, value.type
    graph.insert_after(producer, expand)
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, value.name = name, unique_name(graph, f"{name}.before")
    replace_input(expand, 0, _row(value, *known), _label(new))
    _set_shape(expand, lengths, inputs)
    reason = "a result that is constant for every input"
    return [Note("constant-output", _label(new), "taken", reason, len(known[1]))]


def _expanded(node: ir.Node) -> bool:
    """Already no more than an expansion of numbers."""
    return node.op_type == "Expand" and all(
        value is not None and value.const_value is not None for value in node.inputs[:1]
    )


def _set_shape(
    expand: ir.Node, lengths: list[Extent], inputs: dict[Extent, tuple[ir.Value, int]]
) -> None:
    """The target: known lengths, and those of the network's inputs."""
    if all(isinstance(length, int) for length in lengths):
        replace_input(expand, 1, np.array(lengths, np.int64), "shape")
        return
    parts = ir.node("Concat", [None] * len(lengths), {"axis": 0})
    target = put_before(expand, parts, f"{expand.name}.shape")
    for position, length in enumerate(lengths):
        if isinstance(length, int):
            replace_input(parts, position, np.array([length], np.int64), "length")
            continue
        source, axis = inputs[length]
        shape = put_before(parts, ir.node("Shape", [source]), f"{parts.name}.shape.{position}")
        gather = ir.node("Gather", [shape, None], {"axis": 0})
        chosen = put_before(parts, gather, f"{parts.name}.length.{position}")
        replace_input(gather, 1, np.array([axis], np.int64), "axis")
        parts.replace_input_with(position, chosen)
    expand.replace_input_with(1, target)
