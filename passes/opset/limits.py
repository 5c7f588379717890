"""Attributes, inputs and types that a version of an operator does not have."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from prunedeploy.graph.schemas import Schema, schema


def shed(node: ir.Node, newer: Schema, older: Schema) -> str | None:
    """Drop what the older version lacks where it has no effect; else return the reason."""
    for name, attribute in list(node.attributes.items()):
        if name in older.attributes or name not in newer.attributes:
            continue
        default = newer.attributes[name].default_value
        neutral = onnx.helper.get_attribute_value(default) if default.name else None
        held = attribute.value
        if (held.encode() if isinstance(held, str) else held) != neutral and not _ones(name, held):
            return f"{name}={held} is new in opset {newer.since_version}"
        del node.attributes[name]
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if len(node.inputs) > older.max_input:
        return (
            f"its input {newer.inputs[older.max_input].name} is new in opset {newer.since_version}"
        )
    return None


def _ones(name: str, held: object) -> bool:
    """Dilations have no default in the schema: all ones is what their absence means."""
    return name == "dilations" and isinstance(held, list | tuple) and set(held) == {1}


def lacking(node: ir.Node, opset: int) -> str | None:
    """Why ``node`` is not an operator of ``opset`` as it stands, None when it is."""
    definition = schema(node.op_type, opset)
    if definition is None:
        return f"{node.op_type} is not an operator of opset {opset}"
    for name in node.attributes:
        if name not in definition.attributes:
            return f"{name} is not an attribute of {node.op_type} in opset {opset}"
    outputs = [each for each in node.outputs if each.name]
    if len(node.inputs) > definition.max_input or len(outputs) > definition.max_output:
        return f"it has more inputs or outputs than {node.op_type} in opset {opset}"
    return _types(node, definition, opset)


def _types(node: ir.Node, definition: Schema, opset: int) -> str | None:
    allowed = {rule.type_param_str: rule.allowed_type_strs for rule in definition.type_constraints}
    bound: dict[str, str] = {}
    for values, formals in ((node.inputs, definition.inputs), (node.outputs, definition.outputs)):
        for index, value in enumerate(values):
            formal = formals[min(index, len(formals) - 1)]
            if value is None or not isinstance(value.type, ir.TensorType):
                continue
            kind = f"tensor({value.type.dtype.name.lower()})"
            if kind not in allowed.get(formal.type_str, [formal.type_str]):
                return f"{node.op_type} takes no {kind[7:-1]} in opset {opset}"
            same = formal.is_homogeneous and formal.type_str in allowed
            if same and bound.setdefault(formal.type_str, kind) != kind:
                return f"{node.op_type} takes one type, not two, in opset {opset}"
    return None
