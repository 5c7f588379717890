"""Layers that read the same tensor in the same way are one layer with all their outputs.

Queries, keys and values are: the tensor is then brought to where the kernel works once.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.importer.graph import ConcatOp, ConvOp, Graph, Op, SliceOp, Tensor


def join(graph: Graph) -> None:
    """Replace each group by one layer and a slice for each.

    Not where the result is part of a concatenation, which is computed in its place, or comes out.
    """
    users = graph.users()
    groups: dict[object, list[ConvOp]] = {}
    for op in graph.ops:
        if isinstance(op, ConvOp) and len(op.inputs) == 1 and op.groups == 1:
            held = any(isinstance(user, ConcatOp) for user in users.get(op.output, []))
            if not held and op.output not in graph.outputs:
                groups.setdefault(_key(op), []).append(op)
    made: dict[Op, list[Op]] = {}
    for group in groups.values():
        if len(group) > 1:
            first, *others = group
            made[first] = _joined(group)
            made.update((op, []) for op in others)
    graph.ops = [new for op in graph.ops for new in made.get(op, [op])]


def _key(op: ConvOp) -> object:
    geometry = (op.weight.shape[2:], op.strides, op.pads, op.dilations)
    return (id(op.inputs[0]), op.window, op.channel, geometry, op.activation)


def _joined(group: list[ConvOp]) -> list[Op]:
    first = group[0]
    axis = first.channel
    shape = list(first.output.shape)
    shape[axis] = sum(op.weight.shape[0] for op in group)
    whole = Tensor(tuple(shape))
    layer = ConvOp(
        first.name,
        first.inputs,
        whole,
        np.concatenate([op.weight for op in group]),
        np.concatenate([op.bias for op in group]),
        first.window,
        axis,
        first.strides,
        first.pads,
        first.dilations,
        1,
        first.activation,
    )
    ops: list[Op] = [layer]
    start = 0
    for op in group:
        starts = [0] * whole.rank
        starts[axis] = start
        ops.append(SliceOp(op.name, [whole], op.output, tuple(starts), (1,) * whole.rank))
        start += op.weight.shape[0]
    return ops
