"""Nodes that pass their input on: Identity, Dropout at inference, a Cast to the same type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.records import Note, PassResult
from prunedeploy.passes.names import become_identity
from prunedeploy.reference.opsets import drops


@dataclass(frozen=True)
class RemoveIdentity:
    """Remove nodes whose first output is their first input.

    Kept: an Identity to an output of its graph whose input has to keep its own name, or belongs to
    another graph: an input, an initializer, an output, or a value that a branch hands on.
    """

    name: ClassVar[str] = "remove-identity"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        before = sum(1 for _ in model.graph.all_nodes())
        opset = model.opset_imports.get("", 0)
        for node in list(model.graph):
            if _passes_on(node, opset):
                become_identity(node, node.inputs[0])
        for node in list(model.graph.all_nodes()):
            _eliminate(node)
        common.RemoveUnusedNodesPass()(model)
        gone = before - sum(1 for _ in model.graph.all_nodes())
        note = Note("identities-removed", "graph", "taken", "nodes that change nothing", gone)
        return PassResult(gone > 0, (note,) if gone else ())


def _eliminate(node: ir.Node) -> None:
    """Remove an Identity where both borders of its graph stay as they are."""
    source, result = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.op_type != "Identity" or node.domain or source is None or node.graph is None:
        return
    if result.is_graph_output():
        producer = source.producer()
        inside = producer is not None and producer.graph is node.graph
        if not inside or source.is_graph_output():
            return
    if source.shape is None:
        source.shape = result.shape
    if source.type is None:
        source.type = result.type
    name, is_output = result.name, result.is_graph_output()
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    if is_output:
        source.name = name


def _passes_on(node: ir.Node, opset: int) -> bool:
    if node.domain not in ("", "ai.onnx") or node.inputs[:1] in ((), (None,)):
        return False
    source = node.inputs[0]
    if node.op_type == "Dropout":
        if opset < 7 and not node.attributes.get_int("is_test", 0):
            return False  # it drops unless it is told that it is tested
        unused = not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])
        return unused and not drops(node)
    if node.op_type == "Cast" and source is not None and source.dtype is not None:
        return node.attributes.get_int("to", -1) == int(source.dtype)
    return False
