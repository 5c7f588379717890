"""Nodes that draw random numbers: what depends on them, and which of them are idle."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.graph.subgraphs import bodies

DRAWING = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def drop_idle(program: ir.Model) -> None:
    """Remove, in place, nodes that draw random numbers of which no output depends, and all behind.

    The reference cannot run all of them, and need not.
    """
    drawing = {node for node in program.graph.all_nodes() if draws(node, program)}
    values, _ = touched_by(program.graph, drawing)
    for node in reversed(program.graph):
        idle = not any(value.uses() or value.is_graph_output() for value in node.outputs)
        if idle and any(value in values for value in node.outputs):
            program.graph.remove(node, safe=True)


def draws(node: ir.Node, program: ir.Model) -> bool:
    """Whether a node may draw random numbers, whatever becomes of them."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "Dropout":
        return node.op_type in DRAWING
    opset = program.opset_imports.get("", 0)
    if opset < 7:
        return not node.attributes.get_int("is_test", 0)
    if opset < 12:
        return False  # it is for inference alone
    training = node.inputs[2] if len(node.inputs) > 2 else None
    constant = training.const_value if training is not None else None
    return training is not None and (constant is None or bool(constant.numpy().any()))


def touched_by(graph: ir.Graph, drawing: set[ir.Node]) -> tuple[set[ir.Value], bool]:
    """All values that depend on what the nodes draw, and whether an output is among them."""
    touched: set[ir.Value] = set()
    for node in graph if drawing else ():
        inside = [inner for body in bodies(node) for inner in body.all_nodes()]
        read = (value for each in (node, *inside) for value in each.inputs)
        if drawing & {node, *inside} or any(value in touched for value in read):
            touched.update(node.outputs)
    return touched, any(value in touched for value in graph.outputs)
