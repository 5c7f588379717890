"""Checks that the strings of an ONNX file are UTF-8; protobuf hands out others as bytes."""

from __future__ import annotations

from typing import Any

import onnx

from prunedeploy.graph.protos import InvalidError

NOTE = "a description is not UTF-8: its other bytes are replaced"
#: fields that mean nothing to a network
REMARKS = frozenset({"doc_string", "producer_name", "producer_version", "metadata_props"})


def repair(model: onnx.ModelProto) -> tuple[str, ...]:
    """Replace, in place, what is not UTF-8 in descriptions, which mean nothing to a network.

    Args:
        model: an ONNX model as it was read.

    Returns:
        That there was such a description.

    Raises:
        InvalidError: a name is not UTF-8.
    """
    return (NOTE,) if _repair(model, False) else ()


def _repair(message: Any, is_remark: bool) -> bool:
    repaired = False
    for field, value in _texts(message):
        remark = is_remark or field.name in REMARKS
        if field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else (value,):
                repaired |= _repair(part, remark)
        elif field.is_repeated:
            if any(isinstance(each, bytes) for each in value):
                raise InvalidError(f"one of {field.full_name} is not UTF-8")
        elif isinstance(value, bytes):
            if not remark:
                raise InvalidError(f"{field.full_name} is not UTF-8")
            setattr(message, field.name, value.decode("utf-8", "replace"))
            repaired = True
    return repaired


def _texts(message: Any) -> list[tuple[Any, Any]]:
    """The fields that are strings or messages, with their values; a tensor's data is not copied."""
    if isinstance(message, onnx.TensorProto):
        named = message.DESCRIPTOR.fields_by_name
        names = ("name", "doc_string", "external_data", "metadata_props")
        return [(named[name], getattr(message, name)) for name in names]
    return [x for x in message.ListFields() if x[0].type in (x[0].TYPE_STRING, x[0].TYPE_MESSAGE)]
