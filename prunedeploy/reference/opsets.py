"""The meaning of nodes that depends on the model's opset, for every reader of graphs.

An operator is read as the model's opset has it, never as the newest one does; what differs between
versions and concerns more than one reader is here.
"""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.reference.table import wanted

ALONG_ONE_AXIS = 13  # from here on Softmax, LogSoftmax and Hardmax go along a single axis
BY_ATTRIBUTE = 14  # from here on an attribute sets BatchNormalization to training


def opset(holder: ir.Model | ir.Graph | ir.Node) -> int:
    """The version of the standard domain, under either of its names; 0 where it is not known.

    Graphs inside nodes know it once ``share_opsets`` has told them.
    """
    graph = holder.graph if isinstance(holder, ir.Node) else holder
    imports = graph.opset_imports if graph is not None else {}
    return int(imports.get("", imports.get("ai.onnx", 0)))


def softmax_axes(node: ir.Node, rank: int) -> range:
    """The axes that a Softmax, LogSoftmax or Hardmax normalises over, as one.

    Before opset 13 those from ``axis`` on, 1 by default; from then on ``axis`` alone, by default
    the last.
    """
    if opset(node) < ALONG_ONE_AXIS:
        return range(node.attributes.get_int("axis", 1) % rank, rank)
    axis = node.attributes.get_int("axis", -1) % rank
    return range(axis, axis + 1)


def scales_channels(node: ir.Node) -> bool:
    """Whether a BatchNormalization scales and shifts every channel by numbers that are given.

    Not in training, where it takes the statistics of the batch: before opset 14 that is told by
    more outputs than one, whether or not somebody reads them. Nor with ``spatial`` 0, before opset
    9, which has parameters for every element.
    """
    attributes = node.attributes
    if attributes.get_int("training_mode", 0) or not attributes.get_int("spatial", 1):
        return False
    more = node.outputs[1:]
    if opset(node) < BY_ATTRIBUTE:
        return not any(wanted(node, 1 + index) for index in range(len(more)))
    return not any(value.uses() or value.is_graph_output() for value in more)


def drops(node: ir.Node) -> bool:
    """Whether a node is a Dropout that may drop elements: where an input does not say no.

    The input came with opset 12; before it a Dropout drops nothing.
    """
    if node.op_type != "Dropout":
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return False
    return training.const_value is None or bool(training.const_value.numpy().any())
