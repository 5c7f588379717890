"""Ranges of layers: sums of products, positive and negative weights apart.

    low[m] = bias[m] + sum over k of P[m, k] low[k] + N[m, k] high[k]

where P and N are the sums of row m's positive and negative weights for channel k over all taps.
Where padding brings zeros in, or taps fall outside the image, each channel's range includes zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.graph.model import release
from prunedeploy.passes.analysis.axes import Mask, static_size
from prunedeploy.passes.analysis.ranges import MIN_NORMAL, Bounds, Pair, Range, Ranges, gamma, unit
from prunedeploy.passes.analysis.zero import UNIT
from prunedeploy.passes.operators.layers import CHUNK, Layer, Weights, bias_rows


def layer_range(layer: Layer, weights: Weights, ranges: Ranges) -> Range:
    """The range of each output channel; weights that count as zero are taken as zero."""
    low, high = ranges.along(
        layer.source, layer.source_axis, static_size(layer.source, layer.source_axis) or 0
    )
    if not layer.uniform:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    bias = bias_rows(layer)
    open_below, open_above = ~np.isfinite(low), ~np.isfinite(high)
    loose = weights.touching(layer, open_below & open_above)
    if loose.all():  # nothing is known of what comes in, so nothing need be computed
        return Range(np.full(len(bias), -np.inf), np.full(len(bias), np.inf), layer.result_axis)
    # [groups, rows, channels, taps]: a few rows at a time where there is one group, else groups
    groups = layer.groups
    rows, used = layer.rows(), weights.used(layer)
    grouped = rows.reshape(groups, len(rows) // groups, *rows.shape[1:])
    mine, biases = used.reshape(grouped.shape[:3]), bias.reshape(grouped.shape[:2])
    source = low.reshape(groups, -1), high.reshape(groups, -1)
    below, above = np.empty(biases.shape), np.empty(biases.shape)
    parts = max(1, -(-rows.size // CHUNK))
    if groups == 1:
        chunks = [
            (slice(None), _chunk(part)) for part in np.array_split(np.arange(len(rows)), parts)
        ]
    else:
        chunks = [(_chunk(part), slice(None)) for part in np.array_split(np.arange(groups), parts)]
    for group, row in chunks:
        inputs = source[0][group], source[1][group]
        at = (group, row)
        below[at], above[at] = _sum_bounds(grouped[at], mine[at], inputs, biases[at], layer)
    release(layer.weight.const_value)
    return Range(
        np.where(loose, -np.inf, below.reshape(-1)),
        np.where(loose, np.inf, above.reshape(-1)),
        layer.result_axis,
    )


def _chunk(indices: NDArray[np.int64]) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)


def _sum_bounds(rows: Array, used: Mask, source: Pair, bias: Bounds, layer: Layer) -> Pair:
    """Bounds of the sums of some rows of one group, rounding included."""
    dtype = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    positive = _over_taps(np.maximum(rows, 0).astype(dtype, copy=False), used)
    negative = _over_taps(np.abs(np.minimum(rows, 0)).astype(dtype, copy=False), used)
    if layer.scale < 0:
        positive, negative = negative, positive
    # of the products, the bias and alpha; twice, for the sums made here round as well
    count = rows.shape[2] * rows.shape[3] + 8
    roundoff = max(unit(layer.result), 0.0 if dtype == np.float64 else UNIT)
    error = 2 * gamma(count, roundoff), count * MIN_NORMAL
    (low, high), scale = source, abs(layer.scale)
    below = _lower_bound(positive, scale * low, negative, scale * -high, bias, error)
    above = _lower_bound(positive, scale * -high, negative, scale * low, -bias, error)
    return below, -above


def _over_taps(rows: Array, used: Mask) -> Array:
    """[groups, rows, channels]: weights of one sign over all taps; 0 where unused."""
    taps = rows.shape[3]
    flat = rows.reshape(-1, taps)
    sums = flat[:, 0] if taps == 1 else flat @ np.ones(taps, rows.dtype)
    sums = np.asarray(sums.reshape(used.shape))
    return sums if used.all() else sums * used


def _lower_bound(
    positive: Array,
    low: Bounds,
    negative: Array,
    other: Bounds,
    bias: Bounds,
    error: tuple[float, float],
) -> Bounds:
    """Bound sum(positive x) + sum(negative y) + bias from below, for x >= low, y >= other.

    A sum of terms t is computed as at least sum(t) - gamma sum(|t|) = sum(t - gamma |t|), which
    grows with every t: it is least where each term is, however large the others may become.
    """
    sums, size = bias.astype(np.float64), np.zeros(bias.shape)
    touched, sunk = np.zeros(bias.shape, bool), np.zeros(bias.shape, bool)
    for weights, bound in ((positive, low), (negative, other)):
        closed = np.isfinite(bound)
        known = np.where(closed, bound, 0.0)
        columns = np.stack([known, np.abs(known), ~closed, np.ones_like(known)], axis=-1)
        with np.errstate(all="ignore"):  # what overflows is unbounded in the end
            total = (weights @ columns.astype(weights.dtype)).astype(np.float64)
        sums, size = sums + total[..., 0], size + total[..., 1]
        sunk |= total[..., 2] > 0
        touched |= total[..., 3] > 0
    # a row without weights is its bias; terms no smaller than zero still round what they add to
    slack = np.where(touched, error[0] * (size + np.abs(bias)), 0.0)
    slack += np.where(size > 0, error[1], 0.0)
    with np.errstate(invalid="ignore"):
        return np.where(sunk, -np.inf, sums - slack)
