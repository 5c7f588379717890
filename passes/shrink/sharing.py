"""Initializers that several nodes read: each gets its own while channels are cut.

Exporters store equal tensors once, so that two layers whose biases are all zero come to share one.
Nothing but storage ties their channels then. What is still equal afterwards is stored once again.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from prunedeploy.passes.names import naming, unique_name
from prunedeploy.passes.operators.table import layer_of

# Elements up to which a tensor is copied: biases, slopes, scales and small tables. Larger ones, and
# the weights of layers, are stored once for their size, and are cut where all readers agree.
MAX_COPIED = 1 << 16

Copies = list[tuple[ir.Value, list[ir.Value]]]


def separate(graph: ir.Graph) -> Copies:
    """Give every reader its own of what is shared, in place; the first one keeps what was there.

    Args:
        graph: its initializers share the arrays until one is cut.

    Returns:
        What ``join`` takes: each shared initializer with its copies.
    """
    shared: Copies = []
    with naming(graph):
        for value in list(graph.initializers.values()):
            if _is_worth_copying(value, graph):
                shared.append((value, _copies(value, graph)))
    return shared


def join(graph: ir.Graph, copies: Copies) -> None:
    """Store once again, in place, what is still equal: it was cut alike, or not at all."""
    for original, others in copies:
        kept: list[ir.Value] = []
        for value in (original, *others):
            if graph.initializers.get(str(value.name)) is not value:
                continue  # nothing reads it any more
            same = next((other for other in kept if _equal(value, other)), None)
            if same is None:
                kept.append(value)
            else:
                value.replace_all_uses_with(same)
                del graph.initializers[str(value.name)]


def _is_worth_copying(value: ir.Value, graph: ir.Graph) -> bool:
    tensor, readers = value.const_value, list(value.uses())
    if tensor is None or len(readers) < 2 or tensor.dtype == ir.DataType.STRING:
        return False
    if value.is_graph_output() or value.is_graph_input():
        return False
    if any(use.node.graph is not graph for use in readers):
        return False
    if not 1 < math.prod(tensor.shape.numpy()) <= MAX_COPIED:
        return False
    layers = [layer_of(use.node) for use in readers]
    return not any(layer is not None and layer.weight is value for layer in layers)


def _copies(value: ir.Value, graph: ir.Graph) -> list[ir.Value]:
    """One copy for each reader but the first, named after it."""
    copies = []
    for use in list(value.uses())[1:]:
        name = unique_name(graph, f"{value.name}.{use.node.name or use.node.outputs[0].name}")
        copy = ir.Value(
            name=name, shape=value.shape, type=value.type, const_value=value.const_value
        )
        graph.register_initializer(copy)
        use.node.replace_input_with(use.idx, copy)
        copies.append(copy)
    return copies


def _equal(one: ir.Value, other: ir.Value) -> bool:
    left, right = one.const_value, other.const_value
    if left is right:
        return True
    if left is None or right is None or left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tobytes() == right.tobytes()
