"""int8 weights and activations as QuantizeLinear and DequantizeLinear, from calibration inputs.

Weights symmetric with a scale for every output channel, stored as int8; what a layer reads
symmetric with one scale, the one of several clippings that is off least on the calibration inputs.
Biases, sums and everything between layers stay in float32. Engines that know int8 kernels fuse the
pairs into the layers, others compute what they say. Not exact: the cost is measured and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array, Difference, Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes.names import add_initializer, names, unused
from prunedeploy.passes.precision.cost import narrow_cost
from prunedeploy.passes.precision.float16_keep import observed
from prunedeploy.passes.precision.to_float16 import RECORD
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.opsets import opset

LAST = 127.0
CLIPPINGS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
SAMPLE = 1 << 16  # elements of a value that scales are chosen by
OLDEST = 13  # the opset from which scales may be one a channel

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Quantise:
    """Quantise Conv, Gemm and MatMul with constant weights.

    Args:
        feeds: calibration inputs, of the kind that the network will see.
        keep: names of nodes that stay in float32.
        budget: the most that the outputs may be off, relative to their range: the layers that lose
            most stay until that holds. None for no limit.

    Refuses layers whose weights are computed or not float32, and all of a model below opset 13.
    """

    feeds: Mapping[str, Array] = field(repr=False, compare=False)
    keep: frozenset[str] = frozenset()
    budget: float | None = None
    name: ClassVar[str] = "quantise"
    exact: ClassVar[bool] = False

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        if model.metadata_props.get(RECORD) is not None:
            return PassResult(False)
        if (version := opset(model)) < OLDEST:
            reason = f"opset {version} has no scales for channels: {OLDEST} has"
            return PassResult(False, (Note("opset-too-old", "graph", "refused", reason, 1),))
        _name(model)
        shapes.infer_shapes(model)
        layers, notes = _layers(model.graph, self.keep)
        if not layers:
            return PassResult(False, tuple(notes))
        values = observed(model, self.feeds)
        expected = Evaluator(model).run(self.feeds)
        scales = {name: _scale(values[name]) for name in {_reads(node) for node in layers}}
        order = _worst_first(model, layers, scales, values, self.feeds)
        kept, difference = self._within_budget(model, order, scales, expected)
        for name in kept:
            reason = f"the outputs would be off by more than {self.budget:.1e} of their range"
            notes.append(Note("over-budget", name, "refused", reason, 1))
        if len(kept) == len(order):
            return PassResult(False, tuple(notes))
        _quantise(model, frozenset(order) - kept, scales)
        done = Note("layers-int8", "graph", "taken", "layers in int8", len(order) - len(kept))
        return PassResult(True, (done, *notes, narrow_cost("int8", difference)))

    def _within_budget(
        self,
        model: ir.Model,
        order: list[str],
        scales: Mapping[str, float],
        expected: Mapping[str, Array],
    ) -> tuple[frozenset[str], Difference]:
        """The fewest of the worst layers that have to stay, found by halving, and what is left."""

        def cost(count: int) -> Difference:
            trial = model.clone()
            _quantise(trial, frozenset(order[count:]), scales)
            return verify.compare(expected, Evaluator(trial).run(self.feeds), 1.0)

        difference = cost(0)
        if self.budget is None or difference.max_rel <= self.budget:
            return frozenset(), difference
        low, high = 0, len(order)  # too few, enough: with none quantised nothing is off
        best = cost(high)
        while high - low > 1:
            middle = (low + high) // 2
            tried = cost(middle)
            if tried.max_rel <= self.budget:
                high, best = middle, tried
            else:
                low = middle
        return frozenset(order[:high]), best


def _name(model: ir.Model) -> None:
    taken = names(model.graph)
    for node in model.graph:
        node.name = node.name or unused(node.op_type, taken)


def _layers(graph: ir.Graph, keep: frozenset[str]) -> tuple[list[ir.Node], list[Note]]:
    """The nodes to quantise, and why others are not."""
    layers, notes = [], []
    for node in graph:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain:
            continue
        if (reason := _refuse(node, keep)) is None:
            layers.append(node)
        else:
            notes.append(Note("kept-float32", str(node.name), "refused", reason, 1))
    return layers, notes


def _refuse(node: ir.Node, keep: frozenset[str]) -> str | None:
    source, weight = node.inputs[:2]
    if node.name in keep:
        return "asked for"
    if weight is None or weight.const_value is None or weight.is_graph_input():
        return "its weights are computed"
    if weight.dtype != ir.DataType.FLOAT or source is None or source.dtype != ir.DataType.FLOAT:
        return "it does not compute in float32"
    if node.op_type != "Conv" and len(weight.const_value.shape) != 2:
        return "its weights are no matrix"
    if source.const_value is not None or node.attributes.get_int("transA", False):
        return "what it reads is constant or transposed"
    return None


def _reads(node: ir.Node) -> str:
    assert node.inputs[0] is not None
    return str(node.inputs[0].name)


def _channel_axis(node: ir.Node) -> int:
    """The axis of the weights that counts output channels."""
    turned = node.op_type == "Gemm" and node.attributes.get_int("transB", False)
    return 0 if node.op_type == "Conv" or turned else 1


def _scale(array: Array) -> float:
    """The step of the clipping that is off least, in squares."""
    flat = np.abs(array.astype(np.float64)).reshape(-1)
    largest = float(flat.max(initial=0.0))
    if not largest or not np.isfinite(largest):
        return 1.0
    sample = flat[:: max(1, flat.size // SAMPLE)]
    steps = [largest * part / LAST for part in CLIPPINGS]
    rounded = (np.minimum(np.rint(sample / step), LAST) * step for step in steps)
    errors = [float(np.square(values - sample).sum()) for values in rounded]
    return steps[int(np.argmin(errors))]


def channel_scales(weight: Array, axis: int) -> Floats:
    """The step of every output channel; 1 for one without weights."""
    rest = tuple(each for each in range(weight.ndim) if each != axis)
    largest = np.abs(weight).max(axis=rest)
    return np.where(largest > 0, largest / LAST, 1.0).astype(np.float32)


def _worst_first(
    model: ir.Model,
    layers: list[ir.Node],
    scales: Mapping[str, float],
    values: Mapping[str, Array],
    feeds: Mapping[str, Array],
) -> list[str]:
    """Names of the layers, by how far each is off when all are quantised."""
    trial = model.clone()
    _quantise(trial, frozenset(str(node.name) for node in layers), scales)
    narrowed = observed(trial, feeds)

    def loss(node: ir.Node) -> float:
        name = str(node.outputs[0].name)
        wide, narrow = values[name].astype(np.float64), narrowed[name].astype(np.float64)
        return float(np.square(narrow - wide).sum()) / (float(np.square(wide).sum()) or 1.0)

    return [str(node.name) for node in sorted(layers, key=loss, reverse=True)]


def _quantise(model: ir.Model, chosen: frozenset[str], scales: Mapping[str, float]) -> None:
    """Put the pairs in front of the layers of these names."""
    graph = model.graph
    pairs = _Pairs(graph)
    for node in list(graph):
        if node.name not in chosen:
            continue
        source, weight = node.inputs[:2]
        assert source is not None
        assert weight is not None
        node.replace_input_with(0, pairs.activation(source, scales[_reads(node)]))
        node.replace_input_with(1, pairs.weight(weight, _channel_axis(node)))
    models.drop_unused(graph)
    if chosen:
        model.metadata_props[RECORD] = "int8"
    shapes.infer_shapes(model)


class _Pairs:
    """Quantised forms, one a value."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._taken = graph, names(graph)
        self._values: dict[tuple[ir.Value, int], ir.Value] = {}

    def activation(self, value: ir.Value, scale: float) -> ir.Value:
        """``value`` as int8 and back."""
        if (value, -1) not in self._values:
            step = self._constant(f"{value.name}.scale", np.array(scale, np.float32))
            zero = self._constant(f"{value.name}.zero_point", np.array(0, np.int8))
            first = self._first_reader(value)
            small = self._node("QuantizeLinear", value, [value, step, zero], first)
            wide = self._node("DequantizeLinear", value, [small, step, zero], first)
            self._values[value, -1] = wide
        return self._values[value, -1]

    def weight(self, value: ir.Value, axis: int) -> ir.Value:
        """The weights, stored as int8, and back."""
        if (value, axis) not in self._values:
            assert value.const_value is not None
            array = value.const_value.numpy()
            steps = channel_scales(array, axis)
            along = steps.reshape([-1 if each == axis else 1 for each in range(array.ndim)])
            whole = np.clip(np.rint(array / along), -LAST, LAST).astype(np.int8)
            small = self._constant(f"{value.name}.int8", whole)
            scales = self._constant(f"{value.name}.scale", steps)
            first = self._first_reader(value)
            wide = self._node("DequantizeLinear", value, [small, scales], first, axis=axis)
            self._values[value, axis] = wide
        return self._values[value, axis]

    def _first_reader(self, value: ir.Value) -> ir.Node:
        """Return the node that the pair is inserted before: the first reader."""
        readers = {use.node for use in value.uses()}
        return next(node for node in self._graph if node in readers)

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self._graph, unused(name, self._taken), array)

    def _node(
        self, op: str, value: ir.Value, inputs: list[ir.Value], before: ir.Node, **attributes: int
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        node.name = unused(f"{value.name}/{op}", self._taken)
        result = node.outputs[0]
        kind = ir.DataType.INT8 if op == "QuantizeLinear" else ir.DataType.FLOAT
        result.name = unused(f"{value.name}.{kind.name.lower()}", self._taken)
        result.shape, result.type = value.shape, ir.TensorType(kind)
        self._graph.insert_before(before, node)
        return result
