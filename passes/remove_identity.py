"""Nodes that pass their input on: Identity, Dropout at inference, a Cast to the same type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.opsets import drops
from prunedeploy.types import Note, PassResult


@dataclass(frozen=True)
class RemoveIdentity:
    """Remove nodes whose first output is their first input.

    Kept: an Identity from a graph input or initializer straight to a graph output, whose two
    names are both part of the interface.
    """

    name: ClassVar[str] = "remove-identity"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        before = sum(1 for _ in model.graph.all_nodes())
        for node in list(model.graph):
            if _passes_on(node):
                _as_identity(node)
        common.IdentityEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)
        gone = before - sum(1 for _ in model.graph.all_nodes())
        notes = (Note("graph", "taken", "nodes that change nothing", gone),) if gone else ()
        return PassResult(gone > 0, notes)


def _passes_on(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.inputs[:1] in ((), (None,)):
        return False
    source = node.inputs[0]
    if node.op_type == "Dropout":
        unused = not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])
        return unused and not drops(node)
    if node.op_type == "Cast" and source is not None and source.dtype is not None:
        return node.attributes.get_int("to", -1) == int(source.dtype)
    return False


def _as_identity(node: ir.Node) -> None:
    """The node with its name and output, as an Identity."""
    graph = node.graph
    assert graph is not None
    output = node.outputs[0]
    identity = ir.node("Identity", [node.inputs[0]], name=node.name)
    identity.outputs[0].shape, identity.outputs[0].type = output.shape, output.type
    name = output.name
    output.replace_all_uses_with(identity.outputs[0], replace_graph_outputs=True)
    graph.insert_after(node, identity)
    graph.remove(node, safe=True)
    identity.outputs[0].name = name
