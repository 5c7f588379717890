"""Moves of elements that the layer behind them can do itself: zeros around, channels chosen."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.importer.graph import ConvOp, GatherOp, Graph, PadOp


def fold(graph: Graph) -> None:
    """Zero padding and known choices of channels go into the convolutions that read them."""
    users, producers = graph.users(), graph.producers()
    for op in graph.ops:
        if not isinstance(op, ConvOp):
            continue
        while (before := producers.get(op.inputs[0])) is not None:
            alone = len(users[before.output]) == 1 and before.output not in graph.outputs
            padded = isinstance(before, PadOp) and alone and _pad(op, before)
            if not padded and not (isinstance(before, GatherOp) and _choose(op, before)):
                break
            op.inputs[0] = before.inputs[0]
            users[before.inputs[0]].append(op)
    graph.prune()


def _pad(op: ConvOp, before: PadOp) -> bool:
    """Zeros around the image."""
    x, wide = before.inputs[0], before.output
    if not op.window or before.fill != 0.0 or x.shape[:2] != wide.shape[:2]:
        return False
    front = (0, *before.before[2:])[-2:]
    back = (0, *(n - m - b for n, m, b in zip(wide.shape, x.shape, before.before, strict=True)))
    last = back[-2:] if x.rank == 4 else (0, back[-1])
    top, left, bottom, right = op.pads
    op.pads = (top + front[0], left + front[1], bottom + last[0], right + last[1])
    return True


def _choose(op: ConvOp, before: GatherOp) -> bool:
    """Channels chosen, in any order and number: the weights of each go to where it came from."""
    if op.groups != 1 or before.axis != op.channel:
        return False
    wide = np.zeros((op.weight.shape[0], before.inputs[0].shape[op.channel], *op.weight.shape[2:]))
    for column, index in enumerate(before.indices):
        wide[:, index] += op.weight[:, column]
    op.weight = wide.astype(np.float32)
    return True
