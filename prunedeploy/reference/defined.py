"""Operators by the function that the ONNX specification defines them with.

Where a definition is long and rarely met, it serves as the kernel itself: nobody can read it
otherwise than it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.reference.control import Arrays, Builder, Make, Run, Step

DOMAIN = "prunedeploy.definition"  # of the functions while they are inserted


def body_of(schema: Any, node: ir.Node, types: Sequence[bytes] | None) -> onnx.FunctionProto | None:
    """The definition of this very node.

    Args:
        schema: of the operator's version, from ``onnx.defs``.
        node: may leave inputs out and set attributes, which a definition may depend on.
        types: of its inputs, as serialised ``TypeProto``, empty for one left out; None where
            they are not known.

    Returns:
        None where there is no definition, or the types would have to be known.
    """
    for version in schema.function_opset_versions:
        return _parsed(schema.get_function_with_opset_version(version))
    if types is None:
        return None
    proto = ir.serde.serialize_node(node).SerializeToString()
    for version in schema.context_dependent_function_opset_versions:
        return _parsed(
            schema.get_context_dependent_function_with_opset_version(version, proto, list(types))
        )
    return None


def _parsed(body: Any) -> onnx.FunctionProto:
    proto = onnx.FunctionProto()
    proto.ParseFromString(body if isinstance(body, bytes) else body.SerializeToString())
    return proto


def _type(array: Any) -> onnx.TypeProto:
    if array is None:
        return onnx.TypeProto()
    kind = ir.DataType.from_numpy(array.dtype)
    return onnx.helper.make_tensor_type_proto(int(kind), list(array.shape))


def _model(node: ir.Node, version: int, inputs: Sequence[Any]) -> ir.Model:
    """The node's definition as a model; its inputs are named by their positions."""
    schema = onnx.defs.get_schema(node.op_type, version, "")
    types = [_type(array) for array in inputs]
    body = body_of(schema, node, [t.SerializeToString() for t in types])
    if body is None:
        raise ValueError(f"onnx {onnx.__version__} has no definition of it")
    body.name, body.domain = node.op_type, DOMAIN
    call = ir.serde.serialize_node(node)
    call.domain = DOMAIN
    # results that the node leaves out are not computed
    kept = [index for index, name in enumerate(call.output) if name]
    results = [body.output[index] for index in kept]
    del body.output[:], call.output[:]
    body.output.extend(results)
    call.output.extend(f"out{index}" for index in kept)
    for index in range(len(call.input)):
        call.input[index] = f"in{index}" if inputs[index] is not None else ""
    given = {attribute.name for attribute in call.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            call.attribute.append(attribute.default_value)
    info = onnx.helper.make_value_info
    graph = onnx.helper.make_graph(
        [call],
        node.op_type,
        [info(f"in{i}", t) for i, t in enumerate(types) if inputs[i] is not None],
        [info(name, onnx.TypeProto()) for name in call.output],
    )
    imports = [onnx.helper.make_opsetid(DOMAIN, 1), *body.opset_import]
    model = ir.from_proto(
        onnx.helper.make_model(graph, opset_imports=imports, functions=[body], ir_version=10)
    )
    common.InlinePass()(model)
    model.graph.opset_imports.pop(DOMAIN, None)
    return model


def definition(version: int) -> Builder:
    """The step that runs the definition of an operator's ``version``."""

    def build(node: ir.Node, _: Mapping[str, int], make: Make) -> Step:
        known: dict[tuple[Any, ...], Run] = {}

        def step(inputs: Sequence[Any], __: Arrays) -> tuple[Any, ...]:
            key = tuple(None if x is None else (x.dtype, x.shape) for x in inputs)
            if key not in known:
                known[key] = make(_model(node, version, inputs))
            values = known[key]({f"in{i}": x for i, x in enumerate(inputs) if x is not None})
            return tuple(values.get(f"out{i}") for i in range(len(node.outputs)))

        return step

    return build


def _versions(*versions: int) -> dict[int, Builder]:
    return {version: definition(version) for version in versions}


TABLE: dict[str, dict[int, Builder]] = {
    "Attention": _versions(23, 24, 25),
    "CausalConvWithState": _versions(27),
    "LinearAttention": _versions(27),
    "RotaryEmbedding": _versions(23),
}
