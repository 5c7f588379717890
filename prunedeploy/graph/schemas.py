"""The definitions of operators that the installed ``onnx`` package knows."""

from __future__ import annotations

import onnx

Schema = onnx.defs.OpSchema


def schema(operator: str, opset: int, domain: str = "") -> Schema | None:
    """The definition of ``operator`` in ``opset`` of ``domain``; None where it has none."""
    try:
        return onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None
