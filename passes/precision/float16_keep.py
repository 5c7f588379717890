"""Which nodes have to stay in float32 when the others go to float16, and why.

float16 ends at 65504 and has 11 bits. What overflows, what has no float16 form, and what makes
much of small errors stays. Ranges and errors are those of the inputs that are given: with others a
value may still overflow, so half of the range is left as a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.graph.schemas import Schema, schema
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.opsets import opset

MAX_HALF = float(np.finfo(np.float16).max)
MARGIN = 2.0
# a value may be off by this share of its range, or by this many times what its inputs are off by
LOSS, GROWTH = 2e-2, 8.0
MASK = 1e30  # from here on a number stands for infinity
ROUNDS = 3  # what is kept changes what the rest is off by

# A constant of theirs beyond the range is a bound or a mask: the largest number does as well.
BOUNDED = frozenset({"Add", "Clip", "Max", "Min", "Where"})
FREE = frozenset({"Cast"})  # that take one type and make another

Reasons = dict[ir.Node, str]


def is_float32(value: ir.Value | None) -> bool:
    """A float32 tensor."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def formal_takes(spec: Schema, index: int, *, output: bool = False) -> bool:
    """Whether the definition allows float16 for an input, or for an output."""
    formals = spec.outputs if output else spec.inputs
    formal = formals[min(index, len(formals) - 1)]
    rules = {x.type_param_str: x.allowed_type_strs for x in spec.type_constraints}
    return "tensor(float16)" in rules.get(formal.type_str, [formal.type_str])


def without_form(graph: ir.Graph, opset: int) -> Reasons:
    """Nodes of which nothing is known to work in float16."""
    reasons: Reasons = {}
    for node in graph:
        if not any(map(is_float32, (*node.inputs, *node.outputs))):
            continue
        kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        spec = schema(node.op_type, opset) if not node.domain else None
        if spec is None:
            reasons[node] = f"{node.domain or 'unknown'}::{node.op_type} may have no float16 form"
        elif any(a.type in kinds for a in node.attributes.values()):
            reasons[node] = f"the body of {node.op_type} stays as it is"
        elif is_float32(node.inputs[0] if node.inputs else None) and not formal_takes(spec, 0):
            reasons[node] = f"{node.op_type} takes no float16"
    return reasons


def beyond_range(graph: ir.Graph, values: Mapping[str, Array]) -> Reasons:
    """Nodes that read or write what float16 cannot hold."""
    reasons: Reasons = {}
    for node in graph:
        if node.op_type in FREE:
            continue
        for value in filter(is_float32, (*node.inputs, *node.outputs)):
            assert value is not None
            constant = value.const_value is not None
            if constant and node.op_type in BOUNDED:
                continue
            array = value.const_value.numpy() if value.const_value else values.get(str(value.name))
            limit = MAX_HALF if constant else MAX_HALF / MARGIN
            if array is not None and array.size and (size := _largest(array)) > limit:
                reasons[node] = f"{value.name} reaches {size:.3g}, float16 ends at {MAX_HALF:.0f}"
    return reasons


def _largest(array: Array) -> float:
    magnitude = np.abs(array)
    return float(np.max(magnitude, initial=0.0, where=magnitude < MASK))


def lossy(graph: ir.Graph, values: Mapping[str, Array], narrow: Mapping[str, Array]) -> Reasons:
    """Nodes whose result is far more off than their inputs are, and what those come from.

    ``narrow`` are the values of the same names with the rest in float16.
    """
    reasons: Reasons = {}
    errors = {name: _error(values[name], narrow[name]) for name in values if name in narrow}
    for node in graph:
        result = str(node.outputs[0].name)
        inputs = [errors.get(str(v.name), 0.0) for v in node.inputs if v is not None]
        error = errors.get(result, 0.0)
        if not error > LOSS or error <= GROWTH * max(inputs, default=0.0):
            continue
        why = f"{result} would be off by {error:.1e} of its range"
        reasons[node] = why
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and is_float32(value) and producer.op_type not in FREE:
                reasons.setdefault(producer, why)
    return reasons


def _error(wide: Array, narrow: Array) -> float:
    """The largest difference, relative to the range of ``wide``; infinite for NaN or overflow."""
    left, right = wide.astype(np.float64), narrow.astype(np.float64)
    if left.shape != right.shape or not left.size:
        return 0.0
    masked = np.abs(left) >= MASK
    left, right = (np.where(masked, np.clip(x, -MAX_HALF, MAX_HALF), x) for x in (left, right))
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        distance = float(np.where(same, 0.0, np.abs(left - right)).max())
    if np.isnan(distance):
        return float("inf")
    finite = left[np.isfinite(left) & ~masked]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    return distance / (span or float(np.abs(finite).max(initial=0.0)) or 1.0)


def observed(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every floating point value of the model on ``feeds``, by name."""
    values = {name: array for name, array in feeds.items() if array.dtype.kind == "f"}

    def record(name: str, array: Array) -> None:
        if array.dtype.kind == "f":
            values[name] = array

    Evaluator(model).run(feeds, record)
    return values


def to_keep(
    model: ir.Model,
    feeds: Mapping[str, Array],
    asked: frozenset[str],
    convert: Callable[[ir.Model, frozenset[str]], int],
) -> dict[str, str]:
    """The nodes that stay, by name, and why.

    Args:
        model: in float32; every node has a name.
        feeds: inputs to look at ranges and errors with.
        asked: names of nodes that the user wants to stay.
        convert: converts a model in place but for the nodes of these names.
    """
    graph = model.graph
    reasons: Reasons = {x: "asked for" for x in graph if x.name in asked}
    reasons = without_form(graph, opset(model)) | reasons
    values = observed(model, feeds)
    for node, reason in beyond_range(graph, values).items():
        reasons.setdefault(node, reason)
    for _ in range(ROUNDS):
        trial = model.clone()
        convert(trial, frozenset(str(node.name) for node in reasons))
        lost = lossy(graph, values, observed(trial, feeds))
        fresh = [node for node in lost if node not in reasons]
        reasons = lost | reasons
        if not fresh:
            break
    return {str(node.name): reason for node, reason in reasons.items()}
