"""Inserting the specification's own definition of an operator in its place."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.graph.schemas import schema

DOMAIN = "prunedeploy.definition"  # of the functions while they are inserted


def insert(model: ir.Model, nodes: list[ir.Node], opset: int) -> dict[str, str]:
    """Replace ``nodes`` by their definitions in ``opset``; name -> why not for those that stay."""
    refused: dict[str, str] = {}
    for index, node in enumerate(nodes):
        definition = schema(node.op_type, opset)
        body = _body(node, definition) if definition is not None else None
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


def _body(node: ir.Node, definition: Any) -> onnx.FunctionProto | None:
    """The definition of this very node; it may depend on types, attributes and absent inputs."""
    for version in definition.function_opset_versions:
        return _parsed(definition.get_function_with_opset_version(version))
    types = []
    for value in node.inputs:
        if value is None:
            types.append(b"")
        elif value.type is None:
            return None
        else:
            info = ir.serde.serialize_value(value)
            types.append(info.type.SerializeToString())
    proto = ir.serde.serialize_node(node).SerializeToString()
    for version in definition.context_dependent_function_opset_versions:
        return _parsed(
            definition.get_context_dependent_function_with_opset_version(version, proto, types)
        )
    return None


def _parsed(body: Any) -> onnx.FunctionProto:
    proto = onnx.FunctionProto()
    proto.ParseFromString(body if isinstance(body, bytes) else body.SerializeToString())
    return proto
