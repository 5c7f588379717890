"""Operators between quantised tensors are computed on their bytes.

Each rewriting is exact: a function that grows may be rounded before or behind a clamp or a maximum,
and changes of shape move bytes as they move numbers. Sums and averages are rounded as ONNX
Runtime's own fused operators round them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from prunedeploy.runtimes.sparse.importer.fuse import elementwise
from prunedeploy.runtimes.sparse.importer.fuse.epilogue import match
from prunedeploy.runtimes.sparse.importer.graph import (
    ElementwiseOp,
    Graph,
    Op,
    PoolOp,
    ReduceOp,
    ReshapeOp,
    Tensor,
    TransposeOp,
)
from prunedeploy.runtimes.sparse.importer.quantised import (
    Add8Op,
    Conv8Op,
    DequantiseOp,
    Pool8Op,
    QuantiseOp,
    quantisation_of,
    quantised,
)


def fuse(graph: Graph) -> None:
    """Rewrite ``graph`` in place; one without quantised tensors stays as it is."""
    if not any(isinstance(op, QuantiseOp) for op in graph.ops):
        return
    _epilogues(graph)
    elementwise.merge(graph)
    while _rewrite(graph, _earlier) or _rewrite(graph, _again):
        graph.prune()
    for rule in (_layer, _sum, _pool):
        _rewrite(graph, rule)
    graph.prune()


class _Around:
    """Who makes and who reads each tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users, self.producers = graph.users(), graph.producers()

    def alone(self, tensor: Tensor) -> bool:
        """Whether one operator reads it, and nobody else."""
        return len(self.users.get(tensor, ())) == 1 and tensor not in self.graph.outputs

    def numbers(self, tensor: Tensor) -> Tensor | None:
        """The bytes that ``tensor`` has the numbers of."""
        maker = self.producers.get(tensor)
        return maker.inputs[0] if isinstance(maker, DequantiseOp) else None


Rule = Callable[[_Around, QuantiseOp], "list[Op] | None"]


def _rewrite(graph: Graph, rule: Rule) -> bool:
    """Replace quantising operators by what ``rule`` makes of them and what they read."""
    around, ops, changed = _Around(graph), [], False
    for op in graph.ops:
        made = rule(around, op) if isinstance(op, QuantiseOp) else None
        changed |= made is not None
        ops += [op] if made is None else made
    graph.ops = ops
    return changed


def _epilogues(graph: Graph) -> None:
    """Activations and residual sums go into the layer before, where they are bounds."""
    around = _Around(graph)
    position = {op: index for index, op in enumerate(graph.ops)}
    fused: dict[Op, Op] = {}
    for op in list(graph.ops):
        matched = match(op) if isinstance(op, ElementwiseOp) else None
        bounds = matched[0].bounds if matched else None
        if matched is None or bounds is None:
            continue
        layers = [
            layer
            for tensor in matched[1]
            if isinstance(layer := around.producers.get(tensor), Conv8Op)
            and around.alone(tensor)
            and (layer.low, layer.high) == (-math.inf, math.inf)
            and (len(matched[1]) == 1 or len(layer.inputs) == 1)
        ]
        if not layers or any(tensor.dtype != "float32" for tensor in matched[1]):
            continue
        layer = max(layers, key=lambda each: position[each])
        layer.inputs += [tensor for tensor in matched[1] if tensor is not layer.output]
        layer.low, layer.high = bounds
        layer.output = op.output
        around.producers[op.output] = layer
        position[layer] = position[op]
        fused[op] = layer
    moved = set(fused.values())
    graph.ops = [fused.get(op, op) for op in graph.ops if op not in moved]


def _earlier(around: _Around, op: QuantiseOp) -> list[Op] | None:
    """Quantise in front of a change of shape or a maximum instead of behind it."""
    before = around.producers.get(op.inputs[0])
    moves = isinstance(before, ReshapeOp | TransposeOp) or (
        isinstance(before, PoolOp) and before.kind == "max"
    )
    if before is None or not moves or not around.alone(before.output):
        return None
    source, how = before.inputs[0], quantisation_of(op.output)
    small = quantised(source.shape, how)
    if isinstance(before, PoolOp):
        after: Op = Pool8Op(
            before.name,
            [small],
            op.output,
            "max",
            before.kernel,
            before.strides,
            before.pads,
            before.dilations,
            before.count_include_pad,
        )
    elif isinstance(before, TransposeOp):
        after = TransposeOp(before.name, [small], op.output, before.perm)
    else:
        after = ReshapeOp(before.name, [small], op.output)
    return [QuantiseOp(op.name, [source], small), after]


def _again(around: _Around, op: QuantiseOp) -> list[Op] | None:
    """Numbers of bytes, quantised as they were, are these bytes."""
    source = around.numbers(op.inputs[0])
    if source is None or quantisation_of(source) != quantisation_of(op.output):
        return None
    return [ReshapeOp(op.name, [source], op.output)]


def _layer(around: _Around, op: QuantiseOp) -> list[Op] | None:
    """A layer rounds its own results, where only they are read."""
    layer = around.producers.get(op.inputs[0])
    if not isinstance(layer, Conv8Op) or len(layer.inputs) > 1 or not around.alone(layer.output):
        return None
    how = quantisation_of(op.output)
    step = np.float32(how.scale)
    low, high = (float(how.bytes(bound)) - how.zero for bound in (layer.low, layer.high))
    layer.scale = layer.scale / step
    layer.shift = layer.shift / step
    layer.low, layer.high = low, high
    layer.output = op.output
    return []


def _sum(around: _Around, op: QuantiseOp) -> list[Op] | None:
    """The sum of two quantised tensors."""
    before = around.producers.get(op.inputs[0])
    if not isinstance(before, ElementwiseOp) or not around.alone(before.output):
        return None
    matched = match(before)
    bounds = matched[0].bounds if matched else None
    if matched is None or bounds is None or len(matched[1]) != 2:
        return None
    sources = [around.numbers(tensor) for tensor in matched[1]]
    given = [source for source in sources if source is not None]
    if len(given) < 2:
        return None
    how = quantisation_of(op.output)
    low, high = (int(how.bytes(bound)) for bound in bounds)
    return [Add8Op(op.name, given, op.output, low, high)]


def _pool(around: _Around, op: QuantiseOp) -> list[Op] | None:
    """Averages of bytes."""
    before = around.producers.get(op.inputs[0])
    if not isinstance(before, PoolOp | ReduceOp) or not around.alone(before.output):
        return None
    source = around.numbers(before.inputs[0])
    if source is None or source.rank not in (3, 4):
        return None
    if isinstance(before, PoolOp):
        if before.kind != "average":
            return None
        geometry = (before.kernel, before.strides, before.pads, before.dilations)
        counted = before.count_include_pad
    else:
        if before.kind != "mean" or before.axes != tuple(range(2, source.rank)):
            return None
        whole = (source.shape[2], source.shape[3]) if source.rank == 4 else (1, source.shape[2])
        geometry, counted = (whole, (1, 1), (0, 0, 0, 0), (1, 1)), False
    return [Pool8Op(op.name, [source], op.output, "average", *geometry, counted)]
