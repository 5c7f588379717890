"""A model in an older opset: what an older parser takes, computing the same.

Exporters write opset 18 or newer whatever they are asked for, and converters stop at the first
operator without an adapter; TensorRT 8.2 reads opset 13. Here one opset is undone after the other.
What every operator's version brought is in two tables: ``widened.py`` has those that need nothing
but a look at types and attributes, ``rules.py`` those that are written in another form or in other
operators. What is in neither is refused, by name, and the model is left as it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.graph.schemas import schema
from prunedeploy.passes.names import names
from prunedeploy.passes.opset.definitions import insert
from prunedeploy.passes.opset.emit import Emit
from prunedeploy.passes.opset.limits import lacking, shed
from prunedeploy.passes.opset.rules import DEFINED, RULES
from prunedeploy.passes.opset.widened import NEWEST, WIDENED

OLDEST = 11
WITH_METADATA = 10  # IR version from which nodes and values may carry metadata


@dataclass(frozen=True)
class LowerOpset:
    """Write the model in ``opset`` and ``ir_version`` where it is in newer ones.

    ``ir_version`` 0 stands for the oldest that has ``opset``. Refuses as a whole, and changes
    nothing, where one node has no older form: a note for each such node says why.
    """

    opset: int = 13
    ir_version: int = 0
    name: ClassVar[str] = "lower-opset"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not OLDEST <= self.opset <= NEWEST:
            raise UserError(f"no way to opset {self.opset}: give one of {OLDEST} to {NEWEST}")

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        _one_name(model)
        have, wanted_ir = model.opset_imports.get("", 1), self.ir_version or _min_ir(self.opset)
        if have > NEWEST:
            reason = f"opset {have} is newer than what is known here, {NEWEST}"
            return PassResult(False, (Note("opset-too-new", "graph", "refused", reason, 1),))
        notes: list[Note] = []
        if have > self.opset:
            notes = _lower(model.clone(), self.opset)  # it shares the weights
            if refused := [note for note in notes if note.status == "refused"]:
                return PassResult(False, tuple(refused))
            _lower(model, self.opset)
            reason = f"opset {have} written as {self.opset}"
            notes.insert(0, Note("opset-lowered", "graph", "taken", reason, 1))
        if model.ir_version > wanted_ir:
            reason = f"IR {model.ir_version} as {wanted_ir}"
            notes.append(Note("ir-version-lowered", "graph", "taken", reason, 1))
            _older_ir(model, wanted_ir)
        return PassResult(bool(notes), tuple(notes))


def lowered(model: ir.Model, opset: int, ir_version: int = 0) -> PassResult:
    """Apply ``LowerOpset`` in place, for callers who can do nothing with a model that stays.

    Raises:
        UserError: a node has no form in ``opset``.
    """
    result = LowerOpset(opset, ir_version)(model)
    refused = [note for note in result.notes if note.status == "refused"]
    if refused:
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise UserError(
            f"the model cannot be written in opset {opset}: {refused[0].where}{more}: "
            f"{refused[0].reason}"
        )
    return result


def _one_name(model: ir.Model) -> None:
    """The standard domain goes by its short name everywhere."""
    for graph in model.graphs():
        if (version := graph.opset_imports.pop("ai.onnx", None)) is not None:
            graph.opset_imports[""] = version
    for node in model.graph.all_nodes():
        if node.domain == "ai.onnx":
            node.domain = ""


def _min_ir(opset: int) -> int:
    return int(onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset])


def _lower(model: ir.Model, wanted: int) -> list[Note]:
    """One opset after the other; notes of what was rewritten, and of what has no older form."""
    common.InlinePass()(model)
    shapes.infer_shapes(model)
    counts: Counter[tuple[str, int]] = Counter()
    refused: list[Note] = []
    for opset in range(model.opset_imports.get("", 1), wanted, -1):
        before = counts.total()
        refused += _step(model, opset, counts)
        for graph in model.graphs():
            graph.opset_imports[""] = opset - 1
        if refused:
            return refused
        if counts.total() > before:
            shapes.infer_shapes(model)
    for node in model.graph.all_nodes():
        if not node.domain and (reason := lacking(node, wanted)) is not None:
            refused.append(Note("no-older-form", node.name or node.op_type, "refused", reason, 1))
    models.drop_unused(model.graph)
    return refused or [
        Note("nodes-rewritten", "graph", "taken", f"{op} of opset {opset} in an older form", count)
        for (op, opset), count in counts.items()
    ]


def _step(model: ir.Model, opset: int, counts: Counter[tuple[str, int]]) -> list[Note]:
    """From ``opset`` to the one before."""
    operators, nodes = DEFINED.get(opset, frozenset()), model.graph.all_nodes()
    defined = [node for node in nodes if not node.domain and node.op_type in operators]
    counts.update((node.op_type, opset) for node in defined)
    failed = insert(model, defined, opset)
    refused = [
        Note("no-older-form", where, "refused", reason, 1) for where, reason in failed.items()
    ]
    if defined:
        shapes.infer_shapes(model)
    taken = names(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        if (reason := _undo(node, opset, taken, counts)) is not None:
            refused.append(Note("no-older-form", node.name or node.op_type, "refused", reason, 1))
    return refused


def _undo(
    node: ir.Node, opset: int, taken: set[str], counts: Counter[tuple[str, int]]
) -> str | None:
    """Undo what ``opset`` brought to this operator; None where that was nothing, or it is done."""
    op = node.op_type
    newer, older = schema(op, opset), schema(op, opset - 1)
    if newer is None:
        return f"{op} is not an operator of opset {opset}"
    if newer.since_version != opset:
        return None
    rule = RULES.get((op, opset))
    if rule is not None:
        form = _form(node)
        if (reason := rule(node, Emit(node, taken))) is not None:
            return f"{op}: {reason}"
        if node.graph is None:
            counts[op, opset] += 1
            return None
        if _form(node) != form:
            counts[op, opset] += 1
    elif op not in WIDENED.get(opset, ()):
        return f"{op} is new in opset {opset}" if older is None else f"{op} of opset {opset}"
    if older is None:
        return f"{op} is new in opset {opset}"
    reason = shed(node, newer, older)
    return f"{op}: {reason}" if reason is not None else None


def _form(node: ir.Node) -> tuple[object, ...]:
    return tuple(node.inputs), frozenset(node.attributes)


def _older_ir(model: ir.Model, version: int) -> None:
    model.ir_version = version
    if version >= WITH_METADATA:
        return
    for graph in model.graphs():
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            for output in node.outputs:
                output.metadata_props.clear()
