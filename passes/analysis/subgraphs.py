"""Graphs within graphs: the bodies of If, Loop and Scan.

A body is shrunk like a graph of its own: its inputs and outputs are an interface, and what it
reads from around it stays as it is. Weights that one body alone reads become its own first.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.passes.analysis.axes import Axes


def pin_captured(node: ir.Node, axes: Axes) -> None:
    """Whatever a subgraph reads or hands on from the outside is out of reach."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and any(use.node.graph is not node.graph for use in value.uses()):
            axes.pin(value, "a subgraph")


def pin_outside(graph: ir.Graph, axes: Axes) -> None:
    """Pin the values that a body reads from the graph around it."""
    for node in graph:
        for value in node.inputs:
            if value is not None and value.graph is not graph:
                axes.pin(value, "read from around a subgraph")


def share_opsets(model: ir.Model) -> None:
    """Set the opset versions of bodies, whose nodes do not hold them."""
    for graph in model.graph.subgraphs():
        graph.opset_imports.update(model.opset_imports)


def own_weights(model: ir.Model) -> bool:
    """Move initializers that a single body reads into it; True if any was."""
    moved = False
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            readers = {use.node.graph for use in value.uses()}
            reader = readers.pop() if len(readers) == 1 else None
            if (
                isinstance(reader, ir.Graph)
                and reader is not graph
                and not value.is_graph_output()
                and not value.is_graph_input()
            ):
                del graph.initializers[name]
                reader.register_initializer(value)
                moved = True
    return moved


def settle_names(model: ir.Model) -> None:
    """Names that were unique in their own graph are made so in the whole model."""
    if next(iter(model.graph.subgraphs()), None) is not None:
        common.NameFixPass()(model)
