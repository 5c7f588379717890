"""Weights and computation in float16, inputs and outputs in float32 as they were.

For consumers that compute in the precision that the model is written in: TensorRT from 11 on has
no flag for it, TensorRT-RTX needs float16 on Turing. Not exact: what it costs is measured on
the inputs given and reported, with products summed in float32, as tensor cores do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.records import Array, Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.graph.schemas import Schema, schema
from prunedeploy.passes.names import add_initializer, names, unused
from prunedeploy.passes.precision.cost import narrow_cost
from prunedeploy.passes.precision.float16_keep import (
    FREE,
    MAX_HALF,
    formal_takes,
    is_float32,
    to_keep,
)
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.fitting import fitted
from prunedeploy.reference.opsets import opset

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
RECORD = verify.PRECISION


@dataclass(frozen=True)
class ToFloat16:
    """Write the model in float16, but for the nodes that must stay in float32.

    Args:
        feeds: calibration inputs; where there are none, random ones of the model's stated ranges.
        keep: names of nodes that stay in any case.

    Refuses where the type of a value is not known, and changes nothing then.
    """

    feeds: Mapping[str, Array] | None = field(default=None, repr=False, compare=False)
    keep: frozenset[str] = frozenset()
    name: ClassVar[str] = "to-float16"
    exact: ClassVar[bool] = False

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        if model.metadata_props.get(RECORD) == "float16":
            return PassResult(False)
        trial = model.clone()
        _prepare(trial)
        for node in trial.graph:
            for output in node.outputs:
                if output.name and output.uses() and output.type is None:
                    reason = f"the type of {output.name} is not known"
                    note = Note("unknown-type", str(node.name), "refused", reason, 1)
                    return PassResult(False, (note,))
        if not any(is_float32(v) for node in trial.graph for v in node.outputs):
            return PassResult(False)
        feeds = self.feeds or verify.random_feeds(fitted(model))
        kept = to_keep(trial, feeds, self.keep, convert)
        notes = [Note("kept-float32", name, "refused", reason, 1) for name, reason in kept.items()]
        if all(node.op_type in FREE for node in _of_floats(trial, frozenset(kept))):
            return PassResult(False, tuple(notes))
        before = Evaluator(trial).run(feeds)
        _prepare(model)
        count = convert(model, frozenset(kept))
        done = Note("nodes-float16", "graph", "taken", "nodes in float16", count)
        cost = narrow_cost("float16", verify.compare(before, Evaluator(model).run(feeds), 1e-2))
        return PassResult(True, (done, *notes, cost))


def _prepare(model: ir.Model) -> None:
    """Constants as initializers, every node named, types known."""
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    taken = names(model.graph)
    for node in model.graph:
        node.name = node.name or unused(node.op_type, taken)
    shapes.infer_shapes(model)


def convert(model: ir.Model, kept: frozenset[str]) -> int:
    """Convert in place all nodes but those named; how many nodes compute in float16 then."""
    graph, version = model.graph, opset(model)
    edges = _Edges(graph)
    outputs = {value: index for index, value in enumerate(graph.outputs)}
    count = 0
    nodes = _of_floats(model, kept)
    for node, spec in nodes.items():
        if node.op_type not in FREE:
            for index, value in enumerate(node.inputs):
                if value is not None and formal_takes(spec, index):
                    node.replace_input_with(index, edges.half(value))
        _make_half(node)
        for index, output in enumerate(node.outputs):
            if is_float32(output) and formal_takes(spec, index, output=True):
                output.type = ir.TensorType(HALF)
                edges.halves.add(output)
        count += node.op_type not in FREE
    converted = {node for node in graph if node.name not in kept}
    for value in list(edges.halves):
        for reader, index in list(value.uses()):
            if reader not in edges.casts and _wants_single(reader, index, converted, version):
                reader.replace_input_with(index, edges.single(value))
        if value in outputs:
            edges.interface(value, outputs[value])
    models.drop_unused(graph)
    common.RemoveUnusedNodesPass()(model)
    if count:
        model.metadata_props[RECORD] = "float16"
    shapes.infer_shapes(model)
    return count


def _of_floats(model: ir.Model, kept: frozenset[str]) -> dict[ir.Node, Schema]:
    """The nodes but those named that take or give float32, in order, each with its definition."""
    version, nodes = opset(model), {}
    for node in model.graph:
        spec = schema(node.op_type, version) if not node.domain else None
        floats = any(is_float32(value) for value in (*node.inputs, *node.outputs))
        if spec is not None and floats and node.name not in kept:
            nodes[node] = spec
    return nodes


def _wants_single(reader: ir.Node, index: int, converted: set[ir.Node], opset: int) -> bool:
    """A node that stays, or an input that is float32 in any case (the scales of a Resize)."""
    if reader not in converted:
        return True
    spec = schema(reader.op_type, opset) if not reader.domain else None
    return spec is not None and reader.op_type not in FREE and not formal_takes(spec, index)


def _make_half(node: ir.Node) -> None:
    """Attributes that say float32."""
    for name in ("to", "dtype"):
        if node.attributes.get_int(name, 0) == SINGLE and is_float32(node.outputs[0]):
            node.attributes[name] = ir.AttrInt64(name, int(HALF))
    value = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and value is not None:
        tensor = value.as_tensor()
        if tensor.dtype == SINGLE:
            array = _rounded(tensor.numpy())
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _rounded(array: Array) -> Array:
    """Convert to float16; numbers beyond its range become its limits, infinity stays."""
    finite = np.isfinite(array)
    return np.where(finite, np.clip(array, -MAX_HALF, MAX_HALF), array).astype(np.float16)


class _Edges:
    """Values in the other precision: one Cast, or one rounded copy, a value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.halves: set[ir.Value] = set()  # results that are in float16 now
        self.casts: set[ir.Node] = set()
        self._graph, self._taken = graph, names(graph)
        self._other: dict[ir.Value, ir.Value] = {}

    def half(self, value: ir.Value) -> ir.Value:
        """``value`` in float16, unless it is of another type altogether."""
        if not is_float32(value) or value in self.halves:
            return value
        if value not in self._other:
            tensor = value.const_value
            if tensor is not None and not value.is_graph_input():
                name = unused(f"{value.name}.float16", self._taken)
                self._other[value] = add_initializer(self._graph, name, _rounded(tensor.numpy()))
                models.release(tensor)
            else:
                self._other[value] = self._cast(value, HALF)
        return self._other[value]

    def single(self, value: ir.Value) -> ir.Value:
        """``value``, which is in float16 now, in float32."""
        if value not in self._other:
            self._other[value] = self._cast(value, SINGLE)
        return self._other[value]

    def interface(self, value: ir.Value, index: int) -> None:
        """Let a graph output be float32 under its own name."""
        wide = self.single(value)
        value.name, wide.name = unused(f"{value.name}.float16", self._taken), value.name
        self._graph.outputs[index] = wide

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(to)})
        node.name = unused(f"{value.name}/to_{to.name.lower()}", self._taken)
        result = node.outputs[0]
        result.name = unused(f"{value.name}.{to.name.lower()}", self._taken)
        result.shape, result.type = value.shape, ir.TensorType(to)
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, node)
        elif len(self._graph):
            self._graph.insert_before(self._graph[0], node)
        self.casts.add(node)
        return result
