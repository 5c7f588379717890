"""Another order of the indices of one axis, moved into the weights of the layers around.

From the value whose axis is to be reordered a walk goes both ways through whatever leaves every
index where it is, to the weights it ends in: rows of the layers that write the axis, columns of
those that read it, vectors broadcast along it. Where it meets anything else (an output of the
network, a concatenation, a grouped convolution) nothing is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Labels, rank, static_size
from prunedeploy.passes.names import replace_input, unused
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import AxisOrder
from prunedeploy.passes.operators.table import layer_of, operator

# Initializers made from others: (from which, along which axis, how) -> the new one.
Copies = dict[tuple[ir.Value, int, bytes], ir.Value]


def reorder(
    graph: ir.Graph, value: ir.Value, axis: int, order: Labels, apart: ir.Node, copies: Copies
) -> bool:
    """Reorder an axis of ``value`` in all of ``graph`` but in the node ``apart``.

    Returns:
        Whether it could be done; if not, nothing has been changed.
    """
    if (order == np.arange(len(order))).all():
        return True
    walk = _Walk(apart)
    if not walk.collect((value, axis, order)):
        return False
    walk.carry_out(graph, copies)
    return True


@dataclass
class _Walk:
    """The values, initializers and selections by index that one reordering reaches."""

    apart: ir.Node
    values: dict[ir.Value, tuple[int, Labels]] = field(default_factory=dict)
    weights: dict[tuple[ir.Node, ir.Value, int], Labels] = field(default_factory=dict)
    indices: dict[ir.Node, Labels] = field(default_factory=dict)

    def collect(self, start: AxisOrder) -> bool:
        """Collect everything; False where it cannot be done."""
        pending = [start]
        while pending:
            value, axis, order = pending.pop()
            if value in self.values:
                if not _same(self.values[value], (axis, order)):
                    return False
                continue
            if _out_of_reach(value):
                return False
            self.values[value] = (axis, order)
            for node in self._around(value):
                orders = self._through(node, (value, axis, order))
                if orders is None or not self._sort(node, orders, pending):
                    return False
        return True

    def _around(self, value: ir.Value) -> list[ir.Node]:
        nodes = dict.fromkeys([value.producer(), *(use.node for use in value.uses())])
        return [node for node in nodes if node is not None and node is not self.apart]

    def _sort(self, node: ir.Node, orders: list[AxisOrder], pending: list[AxisOrder]) -> bool:
        for value, axis, order in orders:
            if value.const_value is None:
                pending.append((value, axis, order))
            elif not (self.weights.setdefault((node, value, axis), order) == order).all():
                return False
        return True

    def _through(self, node: ir.Node, at: AxisOrder) -> list[AxisOrder] | None:
        """Return which other axes ``node`` needs reordered; None where the order cannot pass."""
        layer = layer_of(node)
        if layer is not None:
            return _layer(layer, at)
        step = operator(node).reorder
        return step(node, at, self.indices) if step is not None else None

    def carry_out(self, graph: ir.Graph, copies: Copies) -> None:
        """Reorder the initializers, those that others read too in a copy."""
        readers: dict[tuple[ir.Value, int], set[ir.Node]] = {}
        copied: dict[tuple[ir.Node, ir.Value], ir.Value] = {}  # so far: one may have two axes
        for node, value, axis in self.weights:
            readers.setdefault((value, axis), set()).add(node)
        for (value, axis), nodes in readers.items():
            orders = [self.weights[node, value, axis] for node in nodes]
            same = all(np.array_equal(orders[0], order) for order in orders)
            own = same and {use.node for use in value.uses()} == nodes
            if own and not value.is_graph_output():
                _permute(value, value, axis, orders[0])
                continue
            for node, order in zip(nodes, orders, strict=True):
                now = copied.get((node, value), value)
                copy = copied[node, value] = _copy(graph, now, axis, order, copies)
                for index, source in enumerate(node.inputs):
                    if source is now:
                        node.replace_input_with(index, copy)
        for node, indices in self.indices.items():
            replace_input(node, 1, indices, "indices")


def _same(known: tuple[int, Labels], wanted: tuple[int, Labels]) -> bool:
    return known[0] == wanted[0] and np.array_equal(known[1], wanted[1])


def _out_of_reach(value: ir.Value) -> bool:
    """Fed, or seen from outside or from a subgraph."""
    producer = value.producer()
    return (
        producer is None
        or value.is_graph_output()
        or any(use.node.graph is not producer.graph for use in value.uses())
    )


def _permute(value: ir.Value, target: ir.Value, axis: int, order: Labels) -> None:
    tensor = value.const_value
    assert tensor is not None
    array = np.take(tensor.numpy(), order, axis=axis)
    target.const_value = ir.tensor(array, dtype=tensor.dtype, name=target.name)


def _copy(graph: ir.Graph, value: ir.Value, axis: int, order: Labels, copies: Copies) -> ir.Value:
    key = (value, axis, order.tobytes())
    if key not in copies:
        name = unused(f"{value.name}.reordered", set(graph.initializers))
        made = ir.Value(name=name, shape=value.shape, type=value.type)
        _permute(value, made, axis, order)
        graph.register_initializer(made)
        copies[key] = made
    return copies[key]


def _layer(layer: Layer, at: AxisOrder) -> list[AxisOrder] | None:
    """Rows and bias of what writes the axis, columns of what reads it; groups keep their order."""
    value, axis, order = at
    reads = value is layer.source and axis == layer.source_axis
    writes = value is layer.result and axis == layer.result_axis
    if reads and layer.groups == 1:
        return [(layer.weight, layer.weight_in, order)]
    orders: list[AxisOrder] = []
    if layer.depthwise and (reads or writes):
        orders = [
            (layer.source, layer.source_axis, order),
            (layer.result, layer.result_axis, order),
            (layer.weight, 0, order),
        ]
    elif writes and layer.groups == 1:
        orders = [(layer.weight, layer.weight_out, order)]
    else:
        return None
    bias = layer.bias
    if bias is not None and static_size(bias, -1) == len(order):
        orders.append((bias, (rank(bias) or 1) - 1, order))
    return orders
