"""Initializers that several nodes read: each gets its own while channels are cut.

Exporters store equal tensors once, so that two layers whose biases are all zero come to share one,
across the borders of an If's branches too. Nothing but storage ties their channels then. A bias
that is dequantised for several layers is the same, one node later. What is still equal afterwards
is stored once again.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from prunedeploy.passes.analysis.quantised_weights import dequantised
from prunedeploy.passes.names import naming, unique_name
from prunedeploy.passes.operators.table import layer_of

# Elements up to which a tensor is copied: biases, slopes, scales, small tables and what depthwise
# layers weigh with. Larger ones, and the weights of other layers, are stored once for their size,
# and are cut where all readers agree.
MAX_COPIED = 1 << 16

Copies = list[tuple[ir.Value, list[ir.Value]]]


def separate(graph: ir.Graph) -> Copies:
    """Give every reader its own of what is shared, in place; the first one keeps what was there.

    Args:
        graph: its initializers share the arrays until one is cut.

    Returns:
        What ``join`` takes: each shared value with its copies.
    """
    shared: Copies = []
    with naming(graph):
        scaled = [value for node in graph for value in node.outputs if _is_scaled(value)]
        for value in (*scaled, *graph.initializers.values()):
            if _is_worth_copying(value, graph):
                shared.append((value, _copies(value, graph)))
    return shared


def separate_bodies(model: ir.Model) -> Copies:
    """Give every body its own of the initializers that it shares with others, in place."""
    shared: Copies = []
    for graph in list(model.graphs()):
        for value in list(graph.initializers.values()):
            bodies = [
                body
                for body in dict.fromkeys(use.node.graph for use in value.uses())
                if isinstance(body, ir.Graph) and body is not graph
            ]
            if bodies and _is_small(value):
                shared.append((value, [_own(value, body, model.graph) for body in bodies]))
    return shared


def _own(value: ir.Value, body: ir.Graph, graph: ir.Graph) -> ir.Value:
    copy = _copy(value, unique_name(graph, f"{value.name}.{body.name or 'body'}"))
    body.register_initializer(copy)
    for use in list(value.uses()):
        if use.node.graph is body:
            use.node.replace_input_with(use.idx, copy)
    return copy


def join_bodies(model: ir.Model, copies: Copies) -> None:
    """``join``, where bodies alone may read an initializer of the graph around them."""
    for original, others in copies:
        left = [other for other in others if isinstance(other.graph, ir.Graph)]
        if original.uses():
            continue
        if len(left) > 1 and all(_equal(left[0], other) for other in left):
            original.const_value, original.shape = left[0].const_value, left[0].shape
            if original.graph is None:
                model.graph.register_initializer(original)
        elif isinstance(original.graph, ir.Graph):
            del original.graph.initializers[str(original.name)]
    join(copies)


def join(copies: Copies) -> None:
    """Store once again, in place, what is still equal: it was cut alike, or not at all."""
    for original, others in reversed(copies):  # dequantised values after what they are made of
        kept: list[ir.Value] = []
        for value in (original, *others):
            graph, producer = value.graph, value.producer()
            if not isinstance(graph, ir.Graph):
                continue  # nothing reads it any more
            # a body sees what is around it, never what is in another body
            seen = [other for other in kept if other is original or other.graph is graph]
            same = next((other for other in seen if _equal(value, other)), None)
            if same is None:
                kept.append(value)
                continue
            value.replace_all_uses_with(same)
            if producer is None:
                del graph.initializers[str(value.name)]
            else:
                graph.remove(producer, safe=True)


def _is_scaled(value: ir.Value) -> bool:
    return value.producer() is not None and dequantised(value) is not None


def _is_small(value: ir.Value) -> bool:
    array = value.const_value
    if value.is_graph_output() or value.is_graph_input():
        return False
    if array is None or array.dtype == ir.DataType.STRING:
        made = dequantised(value) if value.producer() is not None else None
        return made is not None and 1 < made.size <= MAX_COPIED
    return 1 < math.prod(array.shape.numpy()) <= MAX_COPIED


def _is_worth_copying(value: ir.Value, graph: ir.Graph) -> bool:
    readers = list(value.uses())
    if len(readers) < 2 or any(use.node.graph is not graph for use in readers):
        return False
    layers = [layer_of(use.node) for use in readers]
    weighs = [layer for layer in layers if layer is not None and layer.weight is value]
    return _is_small(value) and all(layer.depthwise for layer in weighs)


def _copies(value: ir.Value, graph: ir.Graph) -> list[ir.Value]:
    """One copy for each reader but the first, named after it."""
    copies, producer = [], value.producer()
    for use in list(value.uses())[1:]:
        name = unique_name(graph, f"{value.name}.{use.node.name or use.node.outputs[0].name}")
        if producer is None:
            copy = _copy(value, name)
            graph.register_initializer(copy)
        else:
            node = ir.node(producer.op_type, producer.inputs, producer.attributes, name=name)
            copy = node.outputs[0]
            copy.name, copy.shape, copy.type = unique_name(graph, name), value.shape, value.type
            graph.insert_after(producer, node)
        use.node.replace_input_with(use.idx, copy)
        copies.append(copy)
    return copies


def _copy(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)


def _equal(one: ir.Value, other: ir.Value) -> bool:
    makers = one.producer(), other.producer()
    if makers[0] is not None and makers[1] is not None:
        return list(makers[0].inputs) == list(makers[1].inputs)
    left, right = one.const_value, other.const_value
    if left is right:
        return True
    if left is None or right is None or left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tobytes() == right.tobytes()
