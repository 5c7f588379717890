"""How many convolutions a grouped one should become, when its groups are left unequally wide.

A convolution for every pair of widths computes the least, but many small ones are slow: each costs
its start, and its part of the Split and the Concat. Groups can share one if the narrower ones keep
dead channels until they are as wide. Which should is a matter of cost: multiply-accumulates, and
for each convolution as many as could be computed in the time that one more takes.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.operators.layers import Layer

Widths = NDArray[np.int64]  # [groups, 2]: input and output channels

UNKNOWN = 16  # what an axis of unknown length counts for


def padded(widths: Widths, macs: float, overhead: float) -> Widths:
    """To what each group is widened: the cheapest choice among runs of the sorted widths.

    Args:
        widths: of the groups.
        macs: multiply-accumulates for each pair of an input and an output channel.
        overhead: of one convolution more, in multiply-accumulates.

    A group alone with others of its class is widened to the same again, so that a second run
    changes nothing: the best cut of a run does not depend on the others.
    """
    kinds, which, counts = np.unique(widths, axis=0, return_inverse=True, return_counts=True)
    best, first = [0.0], [0]  # cost of the kinds before each one, and where the last run begins
    for end in range(1, len(kinds) + 1):
        costs = []
        for begin in range(end):
            ins, outs = kinds[begin:end].max(axis=0).tolist()
            products = int(counts[begin:end].sum()) * ins * outs
            costs.append(best[begin] + products * macs + overhead)
        first.append(int(np.argmin(costs)))
        best.append(costs[first[-1]])
    target, end = kinds.copy(), len(kinds)
    while end:
        target[first[end] : end] = kinds[first[end] : end].max(axis=0)
        end = first[end]
    return np.asarray(target[which.reshape(-1)])


def macs_of_pair(layer: Layer) -> float:
    """Multiply-accumulates of one sample that a pair of an input and an output channel costs."""
    swept = layer.source if layer.node.op_type == "ConvTranspose" else layer.result
    kernel = [int(d) for d in list(layer.weight.shape or ())[2:] if isinstance(d, int)]
    return float(math.prod(kernel) * math.prod(_lengths(swept)))


def _lengths(value: ir.Value) -> list[int]:
    axes = range(2, len(value.shape or ()))
    return [UNKNOWN if (n := static_size(value, axis)) is None else n for axis in axes]
