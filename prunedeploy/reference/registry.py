"""Finds the function that computes a node, by its operator and the opset of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir

from prunedeploy.core.errors import UnknownOperatorError
from prunedeploy.graph.schemas import schema
from prunedeploy.reference import (
    binary,
    casts,
    control,
    defined,
    elementwise,
    indexing,
    layers,
    norms,
    quantised,
    randoms,
    recurrence,
    reductions,
    resizing,
    sampling,
    sequences,
    shapes,
    signal,
    strings,
    windows,
)
from prunedeploy.reference.control import Builder
from prunedeploy.reference.table import Kernel, Table

NEWEST = 28  # the opset up to which the tables are complete
STANDARD = ("", "ai.onnx")

FAMILIES = (
    *(binary, casts, elementwise, indexing, layers, norms, quantised, randoms, recurrence),
    *(reductions, resizing, sampling, sequences, shapes, signal, strings, windows),
)

#: operators that are functions of arrays
KERNELS: Table = {name: kernels for family in FAMILIES for name, kernels in family.TABLE.items()}

#: operators that run graphs: their own, or that of their definition
BUILDERS: dict[str, dict[int, Builder]] = {**control.TABLE, **defined.TABLE}

#: operators that no version is evaluated of, and why
NOT_EVALUATED = {"ImageDecoder": "it reads files of formats that ONNX does not define"}


def standard(imports: Mapping[str, int]) -> dict[str, int]:
    """The imports with the standard domain under the one name that nodes and schemas use."""
    return {"" if domain == "ai.onnx" else domain: version for domain, version in imports.items()}


def label(node: ir.Node) -> str:
    """Operator and name of a node, for messages."""
    domain = "" if node.domain in STANDARD else f"{node.domain}::"
    return f"operator {domain}{node.op_type} (node {node.name or '?'})"


def kernel_of(node: ir.Node, opsets: Mapping[str, int]) -> Kernel | Builder:
    """The function of ``KERNELS`` or ``BUILDERS`` for a node of the standard domain.

    Raises:
        UnknownOperatorError: the model's opset has no such operator, or it is not known here.
    """
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    versions: Mapping[int, Any] | None = KERNELS.get(node.op_type) or BUILDERS.get(node.op_type)
    if versions is None:
        why = NOT_EVALUATED.get(node.op_type)
        raise _unknown(node, f" is not evaluated, as {why}" if why else " is unknown")
    known = [version for version in versions if version <= opset]
    if not known:
        raise _unknown(node, f" of opset {opset} is unknown")
    if versions[max(known)] is None:
        raise _unknown(node, f" was withdrawn from ONNX before opset {opset}, the model's")
    if opset > NEWEST and _newer(node.op_type, opset) != max(known):
        raise _unknown(node, f" of opset {opset} is newer than what is known here, {NEWEST}")
    entry: Kernel | Builder = versions[max(known)]
    return entry


def _unknown(node: ir.Node, what: str) -> UnknownOperatorError:
    return UnknownOperatorError(
        f"{label(node)}{what}, so what the model computes cannot be checked"
    )


def _newer(operator: str, opset: int) -> int | None:
    """The version that an operator has in an opset newer than the tables; None: not known."""
    if opset > onnx.defs.onnx_opset_version():
        return None  # onnx would answer with the last version that it knows
    definition = schema(operator, opset)
    return None if definition is None else int(definition.since_version)
