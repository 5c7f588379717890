"""Element types that a model declares: each must be one that ONNX knows."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, TypeProto

from prunedeploy.graph import protos
from prunedeploy.graph.protos import InvalidError, label

KNOWN = frozenset(TensorProto.DataType.values())


def check(model: onnx.ModelProto) -> None:
    """Check the declared types of all values, and those that are attributes of nodes.

    Stored tensors are left to ``tensors.check``.

    Raises:
        InvalidError: an element type is no type of ONNX; the message names what it is of.
    """
    for what, declared in _declared(model):
        for number in _element_types(declared):
            if number not in KNOWN:
                raise InvalidError(f"{what} has no element type that ONNX knows: {number}")


def _declared(model: onnx.ModelProto) -> Iterator[tuple[str, TypeProto]]:
    for graph in protos.all_graphs(model):
        for kind, values in (
            ("input", graph.input), ("output", graph.output), ("value", graph.value_info),
        ):  # fmt: skip
            yield from ((f"{kind} {value.name!r}", value.type) for value in values)
    for function in model.functions:
        yield from ((f"value {value.name!r}", value.type) for value in function.value_info)
    for node in protos.all_nodes(model):
        for attribute in node.attribute:
            what = f"attribute {attribute.name} of node {label(node)}"
            if attribute.HasField("tp"):
                yield what, attribute.tp
            yield from ((what, declared) for declared in attribute.type_protos)


def _element_types(declared: TypeProto) -> Iterator[int]:
    """The numbers of all element types in one type, nested ones included."""
    match declared.WhichOneof("value"):
        case "tensor_type":
            yield declared.tensor_type.elem_type
        case "sparse_tensor_type":
            yield declared.sparse_tensor_type.elem_type
        case "sequence_type":
            yield from _element_types(declared.sequence_type.elem_type)
        case "optional_type":
            yield from _element_types(declared.optional_type.elem_type)
        case "map_type":
            yield declared.map_type.key_type
            yield from _element_types(declared.map_type.value_type)
