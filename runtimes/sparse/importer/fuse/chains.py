"""Chains of Reshape and Transpose as one of each, at most.

Exporters flatten batch and heads before a product and part them again behind it. Said as one
transposition of the first tensor's axes, such a detour costs no copy, however the tensor lies.
"""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.importer.graph import Graph, Op, ReshapeOp, Tensor, TransposeOp
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.views import View, row_major

Origin = tuple[Tensor, View]


def straighten(graph: Graph) -> None:
    """Rewrite every chain from its first tensor."""
    origins: dict[Tensor, Origin] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if not isinstance(op, ReshapeOp | TransposeOp):
            ops.append(op)
            continue
        source = op.inputs[0]
        root, view = origins.get(source, (source, row_major(0, source.shape)))
        moved = layout.forward(op, view)
        if moved is None:
            root = source
            moved = layout.forward(op, row_major(0, source.shape))
        assert moved is not None
        origins[op.output] = root, moved
        ops += [op] if root is source else _direct(op, root, moved)
    graph.ops = ops
    graph.prune()


def _direct(op: Op, root: Tensor, view: View) -> list[Op]:
    """``view``, in terms of the root's elements in C order, as a Reshape and a Transpose."""
    shape = view.shape
    # axes of length 1 have no place of their own: they stay with their left neighbour
    strides = list(view.strides)
    for axis, n in enumerate(shape):
        if n == 1:
            strides[axis] = strides[axis - 1] if axis else math.prod(shape)
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    split = tuple(shape[axis] for axis in order)
    perm = tuple(order.index(axis) for axis in range(len(shape)))
    made: list[Op] = []
    source = root
    if split != root.shape:
        source = root.like(split)
        made.append(ReshapeOp(op.name, [root], source))
    if perm != tuple(range(len(perm))):
        made.append(TransposeOp(op.name, [source], op.output, perm))
    elif made:
        made[-1].output = op.output
    else:  # the chain is where it began
        made.append(ReshapeOp(op.name, [root], op.output))
    return made
