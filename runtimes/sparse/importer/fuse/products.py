"""Constant factors around a product of matrices, and what is added to it, go into it."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.importer.graph import ElementwiseOp, Op, Tensor


def absorb(graph: ops.Graph) -> None:
    """Take alpha and the added mask from the operator behind, alpha also from those before."""
    users, producers = graph.users(), graph.producers()
    _before(graph, users, producers)
    gone: dict[Op, Op] = {}
    for op in graph.ops:
        if not isinstance(op, ElementwiseOp):
            continue
        for tensor in op.inputs:
            product = producers.get(tensor)
            if not isinstance(product, ops.MatMulOp) or len(product.inputs) > 2:
                continue
            if len(users[tensor]) > 1 or tensor in graph.outputs:
                continue
            if (total := _sum(op, tensor)) is not None:
                factor, added = total
                product.alpha *= factor
                product.inputs += [] if added is None else [added]
                product.output = op.output
                producers[op.output] = product
                gone[op] = product
                break
    moved = set(gone.values())
    graph.ops = [gone.get(op, op) for op in graph.ops if op not in moved]


def _sum(op: ElementwiseOp, product: Tensor) -> tuple[float, Tensor | None] | None:
    """``op`` as factor * product + something."""
    if product.shape != op.output.shape:
        return None
    terms = list(op.expr.operands) if op.expr.op == "add" else [op.expr]
    for term, others in ((terms[0], terms[1:]), (terms[-1], terms[:-1])):
        factor, rest = e.scaled(term)
        if len(rest) != 1 or rest[0].leaf is not product:
            continue
        if not others:
            return factor, None
        added = others[0].leaf
        if isinstance(added, Tensor) and added is not product:
            return factor, added
        if isinstance(added, float):
            return factor, ops.constant(np.full((1,) * product.rank, added, np.float32))
    return None


def _before(graph: ops.Graph, users: dict[Tensor, list[Op]], producers: dict[Tensor, Op]) -> None:
    """Absorb operators that only scale, with nothing but views between them and the product."""
    for op in graph.ops:
        if not isinstance(op, ops.MatMulOp):
            continue
        for side in (0, 1):
            chain: list[Op] = []
            tensor = op.inputs[side]
            while (before := producers.get(tensor)) is not None and isinstance(before, ops.VIEWS):
                if len(users[tensor]) > 1 or tensor in graph.outputs:
                    break
                chain.append(before)
                tensor = before.inputs[0]
            scale = _scale(before, users, graph)
            if scale is None or not isinstance(before, ElementwiseOp):
                continue
            factor, source = scale
            op.alpha *= factor
            users[source] = [u for u in users[source] if u is not before]
            if chain:
                chain[-1].inputs[0] = source
                users[source].append(chain[-1])
            else:
                op.inputs[side] = source
                users[source].append(op)
    graph.prune()


def _scale(
    op: Op | None, users: dict[Tensor, list[Op]], graph: ops.Graph
) -> tuple[float, Tensor] | None:
    if not isinstance(op, ElementwiseOp) or len(users[op.output]) > 1 or op.output in graph.outputs:
        return None
    factor, rest = e.scaled(op.expr)
    if len(rest) != 1 or op.expr.op not in ("mul", "div"):
        return None
    source = rest[0].leaf
    same = isinstance(source, Tensor) and source.shape == op.output.shape
    return (factor, source) if same and source.value is None else None
