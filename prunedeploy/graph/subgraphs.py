"""Graphs within graphs: the bodies of If, Loop and Scan."""

from __future__ import annotations

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside of one node."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            graphs.append(attribute.as_graph())
        elif attribute.type.name == "GRAPHS":
            graphs.extend(attribute.as_graphs())
    return graphs
