"""Contributions of constants to a zero-padded convolution: less at the borders than inside.

    map[m, y, x] = sum over k and the taps (i, j) that fall inside the image of c_k W[m, k, i, j]

Few output rows differ in which taps fall inside (three for a 3x3 kernel padded by one: first,
middle, last), so the map is a small table, [1, M, 3, 3] say, whose rows and columns are repeated by
a Gather; runtimes fold that once, when they load the model. Behind a transposed convolution the
rows repeat with the stride. It needs maps of fixed size, and leaves the number of channels what
pruning made it, where a channel that carries the constants adds one: 33 instead of 32 costs ONNX
Runtime most of what pruning gained (``benchmarks/borders.py``). Constant
feature maps (see ``constant_maps.py``) come to such a table likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.analysis.facts import Constants, Maps
from prunedeploy.passes.operators.layers import Layer, tap_contributions
from prunedeploy.reference.torch_kernels import window


@dataclass(frozen=True)
class Border:
    """``table`` is [1, M, r, ...]; ``repeats`` says for each swept axis which entry goes where."""

    table: NDArray[np.float64]
    repeats: tuple[NDArray[np.int64], ...]


def border(layer: Layer, constants: Constants) -> Border:
    """Return what input channels at these constants (0 elsewhere) add to a padded convolution."""
    table = tap_contributions(layer, constants).reshape(-1, *_kernel(layer))
    repeats = []
    for axis, sources in enumerate(_sources(layer)):
        inside = (sources >= 0).astype(np.float64)
        kinds, repeat = np.unique(inside, axis=0, return_inverse=True)
        # the summed tap axis goes, the axis of the kinds of rows takes its place
        table = np.moveaxis(np.tensordot(table, kinds, axes=(1 + axis, 1)), -1, 1 + axis)
        repeats.append(repeat.reshape(-1).astype(np.int64))
    return Border(table[None], tuple(repeats))


def map_border(layer: Layer, maps: Maps) -> Border:
    """Return what input channels with these maps, [channels, ...] (0 elsewhere), add.

    Two rows of the result are alike where every tap finds the same row of the maps, or none.
    """
    chosen, repeats = [], []
    for axis, sources in enumerate(_sources(layer)):
        rows = np.moveaxis(maps, 1 + axis, 0).reshape(maps.shape[1 + axis], -1)
        _, kinds = np.unique(rows, axis=0, return_inverse=True)
        met = np.where(sources >= 0, kinds.reshape(-1)[sources], -1)
        _, first, repeat = np.unique(met, axis=0, return_index=True, return_inverse=True)
        chosen.append(sources[first])
        repeats.append(repeat.reshape(-1).astype(np.int64))
    padded = np.pad(maps, [(0, 0), *[(0, 1)] * len(chosen)])  # the zero that index -1 finds
    weight = layer.rows()
    weight = weight.reshape(layer.groups, -1, *weight.shape[1:])
    table: NDArray[np.float64] = np.zeros(())
    for number, tap in enumerate(np.ndindex(*_kernel(layer))):
        positions = [rows[:, at] for rows, at in zip(chosen, tap, strict=True)]
        part = padded[np.ix_(np.arange(len(maps)), *positions)]
        columns = part.reshape(layer.groups, weight.shape[2], -1)
        table = table + weight[..., number].astype(np.float64) @ columns
    return Border(table.reshape(1, -1, *map(len, chosen)), tuple(repeats))


def whole(border: Border) -> Maps:
    """The map, [channels, ...], its rows and columns repeated."""
    return np.asarray(border.table[0][np.ix_(np.arange(border.table.shape[1]), *border.repeats)])


def _kernel(layer: Layer) -> list[int]:
    return [int(d) for d in list(layer.weight.shape or ())[2:] if isinstance(d, int)]


def _sources(layer: Layer) -> list[NDArray[np.int64]]:
    """For each swept axis [output positions, taps]: where the tap reads, -1 outside the image."""
    node, kernel = layer.node, _kernel(layer)
    sizes = [static_size(layer.source, 2 + axis) or 0 for axis in range(len(kernel))]
    lengths = [static_size(layer.result, 2 + axis) or 0 for axis in range(len(kernel))]
    strides, dilations, pads = window(node, sizes, kernel)
    sources = []
    for axis, (size, taps, length) in enumerate(zip(sizes, kernel, lengths, strict=True)):
        positions, reach = np.arange(length)[:, None], np.arange(taps) * dilations[axis]
        if node.op_type == "ConvTranspose":
            # position stride * i - pad + reach: met where the division by the stride leaves nothing
            at, rest = np.divmod(positions + pads[axis] - reach, strides[axis])
        else:
            at = positions * strides[axis] - pads[axis] + reach
            rest = np.zeros_like(at)
        sources.append(np.where((at >= 0) & (at < size) & (rest == 0), at, -1))
    return sources
