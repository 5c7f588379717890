"""Chains of functions of single elements become one, and known functions are recognised."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.graph import ElementwiseOp, Graph, Op, Tensor

MAX_INSTRUCTIONS = 48  # instructions of one operator: their results live in registers
MAX_INPUTS = 8  # tensors that one operator reads


def merge(graph: Graph) -> None:
    """Compute an operator inside its only reader, where that is one over the same elements."""
    users, producers = graph.users(), graph.producers()
    gone = set()
    for op in graph.ops:
        if not isinstance(op, ElementwiseOp):
            continue
        while (inner := _inlined(graph, op, users, producers)) is not None:
            op.expr = e.substitute(op.expr, {id(inner.output): inner.expr})
            op.inputs = e.leaves(op.expr)
            for tensor in inner.inputs:
                readers = [user for user in users[tensor] if user is not inner]
                users[tensor] = readers if op in readers else [*readers, op]
            gone.add(inner)
    graph.remove(gone)


def _inlined(
    graph: Graph, op: ElementwiseOp, users: dict[Tensor, list[Op]], producers: dict[Tensor, Op]
) -> ElementwiseOp | None:
    for tensor in op.inputs:
        inner = producers.get(tensor)
        if not isinstance(inner, ElementwiseOp) or tensor.shape != op.output.shape:
            continue
        if len(users[tensor]) > 1 or tensor in graph.outputs:
            continue
        inputs = dict.fromkeys([*op.inputs, *inner.inputs])
        long = e.length(op.expr) + e.length(inner.expr) > MAX_INSTRUCTIONS
        if not long and len(inputs) - 1 <= MAX_INPUTS:
            return inner
    return None


def simplify(graph: Graph) -> None:
    """Simpler forms of every function; one that turns out to be its input goes."""
    same: dict[Tensor, Tensor] = {}
    for op in graph.ops:
        op.inputs = [same.get(tensor, tensor) for tensor in op.inputs]
        if not isinstance(op, ElementwiseOp):
            continue
        moved = {id(old): e.tensor(new) for old, new in same.items()}
        op.expr = e.simplify(e.substitute(op.expr, moved) if moved else op.expr)
        op.inputs = e.leaves(op.expr)
        source = op.expr.leaf
        if not isinstance(source, Tensor) or source.shape != op.output.shape:
            continue
        # the model's outputs have types of their own
        if source.dtype == op.output.dtype or op.output not in graph.outputs:
            same[op.output] = source
    graph.outputs = [same.get(tensor, tensor) for tensor in graph.outputs]
    graph.remove([op for op in graph.ops if op.output in same])
