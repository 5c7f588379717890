"""Nodes of an exported network under the names that its layers have in the checkpoint."""

from __future__ import annotations

import onnx_ir as ir

ENDINGS = (".weight", ".in_proj_weight")


def name_by_weights(graph: ir.Graph) -> None:
    """Rename, in place, each node that alone reads a layer's weight after that layer.

    The exporter counts nodes (``node_Conv_352``); reports and messages that name a layer are of use
    to whom knows it as ``layer2.0.conv1``.
    """
    taken = {node.name for node in graph.all_nodes()}
    for node in graph:
        for value in node.inputs:
            if value is None or value.name not in graph.initializers or len(value.uses()) != 1:
                continue
            name = str(value.name)
            layer = next((name[: -len(x)] for x in ENDINGS if name.endswith(x)), "")
            if layer and layer not in taken:
                taken.add(layer)
                node.name = layer
                break
