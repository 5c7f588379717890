"""A function of single elements behind moves of them goes in front, to the layer that can do it.

relu(reshape(conv(x))) = reshape(relu(conv(x)))
"""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.importer.graph import Op, Tensor
from prunedeploy.runtimes.sparse.plan.steps import UNARY


def lift(graph: ops.Graph) -> None:
    """Move each activation up to its layer, where nobody else reads what is between."""
    users, producers = graph.users(), graph.producers()
    moved: dict[Op, Op] = {}
    gone: set[Op] = set()
    for op in graph.ops:
        if not isinstance(op, ops.ElementwiseOp) or not _is_activation(op):
            continue
        layer, last = _layer(op.inputs[0], graph, users, producers)
        if layer is None or last is None:
            continue
        inner = Tensor(layer.output.shape)
        table = {id(op.inputs[0]): e.tensor(layer.output)}
        made = ops.ElementwiseOp(op.name, [layer.output], inner, e.substitute(op.expr, table))
        moved[layer] = made
        (first,) = users[layer.output]
        first.inputs = [inner]
        last.output = op.output
        gone.add(op)
    order: list[Op] = []
    for op in graph.ops:
        order += [] if op in gone else [op]
        order += [moved[op]] if op in moved else []
    graph.ops = order


def _is_activation(op: ops.ElementwiseOp) -> bool:
    x = op.expr.operands[0] if op.expr.operands else op.expr
    alone = x.op == "tensor" and x.leaf.shape == op.output.shape and len(op.inputs) == 1
    return op.expr.op in UNARY and op.expr.op != "not" and alone


def _layer(
    tensor: Tensor, graph: ops.Graph, users: dict[Tensor, list[Op]], producers: dict[Tensor, Op]
) -> tuple[ops.ConvOp | None, Op | None]:
    """The layer behind a chain of moves, and the last of them."""
    last = producers.get(tensor)
    while True:
        producer = producers.get(tensor)
        if producer is None or len(users[tensor]) > 1 or tensor in graph.outputs:
            return None, None
        if isinstance(producer, ops.ConvOp):
            plain = producer.activation == ops.NONE and len(producer.inputs) == 1
            return (producer, last) if plain and producer is not last else (None, None)
        if not isinstance(producer, ops.ReshapeOp | ops.TransposeOp | ops.SliceOp):
            return None, None
        tensor = producer.inputs[0]
