"""What a constant adds to a zero-padded convolution: the same in the middle, less at the borders.

    map[m, y, x] = sum over k and the taps (i, j) that fall inside the image of c_k W[m, k, i, j]

Few output rows differ in which taps fall inside (three for a 3x3 kernel padded by one: first,
middle, last), so the map is a small table, [1, M, 3, 3] say, whose rows and columns are repeated by
a Gather; runtimes fold that once, when they load the model. It needs maps of fixed size, and leaves
the number of channels what pruning made it, where a channel that carries the constants adds one: 33
instead of 32 costs ONNX Runtime most of what pruning gained (``benchmarks/borders.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.evaluate import window
from prunedeploy.passes.shrink.axes import static_size
from prunedeploy.passes.shrink.facts import Constants
from prunedeploy.passes.shrink.layers import Layer, tap_contributions


@dataclass(frozen=True)
class Border:
    """``table`` is [1, M, r, ...]; ``repeats`` says for each swept axis which entry goes where."""

    table: NDArray[np.float64]
    repeats: tuple[NDArray[np.int64], ...]


def border(layer: Layer, constants: Constants) -> Border:
    """What input channels at these constants (0 elsewhere) add to a padded convolution."""
    kernel = [int(d) for d in list(layer.weight.shape or ())[2:] if isinstance(d, int)]
    sizes = [static_size(layer.source, 2 + axis) or 0 for axis in range(len(kernel))]
    lengths = [static_size(layer.result, 2 + axis) or 0 for axis in range(len(kernel))]
    table = tap_contributions(layer, constants).reshape(-1, *kernel)
    repeats = []
    for axis, inside in enumerate(_inside(layer.node, sizes, kernel, lengths)):
        kinds, repeat = np.unique(inside, axis=0, return_inverse=True)
        # the summed tap axis goes, the axis of the kinds of rows takes its place
        table = np.moveaxis(np.tensordot(table, kinds, axes=(1 + axis, 1)), -1, 1 + axis)
        repeats.append(repeat.reshape(-1).astype(np.int64))
    return Border(table[None], tuple(repeats))


def _inside(
    node: ir.Node, sizes: list[int], kernel: list[int], lengths: list[int]
) -> list[NDArray[np.float64]]:
    """For each swept axis [output positions, taps]: 1 where the tap falls inside the image."""
    strides, dilations, pads = window(node, sizes, kernel)
    found = []
    for axis, (size, taps, length) in enumerate(zip(sizes, kernel, lengths, strict=True)):
        first = np.arange(length)[:, None] * strides[axis] - pads[axis]
        at = first + np.arange(taps) * dilations[axis]
        found.append(((at >= 0) & (at < size)).astype(np.float64))
    return found
