"""Inserting the specification's own definition of an operator in its place."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.graph.schemas import schema
from prunedeploy.reference.defined import body_of

DOMAIN = "prunedeploy.definition"  # of the functions while they are inserted


def insert(model: ir.Model, nodes: list[ir.Node], opset: int) -> dict[str, str]:
    """Replace ``nodes`` by their definitions in ``opset``; name -> why not for those that stay."""
    refused: dict[str, str] = {}
    for index, node in enumerate(nodes):
        definition = schema(node.op_type, opset)
        body = body_of(definition, node, _types(node)) if definition is not None else None
        if definition is None or body is None:
            refused[node.name or node.op_type] = f"{node.op_type}: its definition needs known types"
            continue
        body.name, body.domain = f"{node.op_type}_{index}", DOMAIN
        for entry in body.opset_import:
            entry.version = opset if entry.domain in ("", "ai.onnx") else entry.version
        del body.output[len(node.outputs) :]  # results that this node leaves out are not computed
        function = ir.serde.deserialize_function(body)
        model.functions[function.identifier()] = function
        for name, attribute in definition.attributes.items():
            default = attribute.default_value
            if name not in node.attributes and default.name:
                node.attributes[name] = ir.serde.deserialize_attribute(default)
        node.op_type, node.domain = body.name, DOMAIN
    if len(refused) < len(nodes):
        common.InlinePass()(model)
        model.graph.opset_imports.pop(DOMAIN, None)
    return refused


def _types(node: ir.Node) -> list[bytes] | None:
    """The types of the inputs, serialised; None where one is not known."""
    if any(value is not None and value.type is None for value in node.inputs):
        return None
    infos = [None if value is None else ir.serde.serialize_value(value) for value in node.inputs]
    return [b"" if info is None else info.type.SerializeToString() for info in infos]
