"""Layers with weights: convolutions of all kinds, matrix products, Einsum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from prunedeploy.reference import torch_kernels
from prunedeploy.reference.on_torch import on_torch
from prunedeploy.reference.table import Numbers, Table, integer, integers, number, same, text
from prunedeploy.reference.torch_kernels import convolution, transposed_convolution, window


def convolve(node: ir.Node, x: Numbers, w: Numbers, b: Numbers | None = None) -> Any:
    """A convolution over any number of axes; grouped, dilated, padded."""
    if x.shape[1] != w.shape[1] * integer(node, "group", 1):
        raise ValueError(f"weights of shape {list(w.shape)} for {x.shape[1]} channels")
    result = on_torch(convolution)(node, x, w, b)
    return _by_windows(node, x, w, b) if result is None else result


def _by_windows(node: ir.Node, x: Numbers, w: Numbers, b: Numbers | None) -> Any:
    rank, group = w.ndim - 2, integer(node, "group", 1)
    strides, dilations, pads = window(node, list(x.shape[2:]), list(w.shape[2:]))
    width = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    view = sliding_window_view(np.pad(x, width), spans, tuple(range(2, x.ndim)))
    steps = [slice(None)] * 2 + [slice(None, None, s) for s in (*strides, *dilations)]
    view = view[tuple(steps)]
    out = view.shape[2 : 2 + rank]
    # batch, group, channels of a group, pixels of the result, taps
    parts = view.reshape(len(x), group, w.shape[1], math.prod(out), math.prod(w.shape[2:]))
    filters = w.reshape(group, len(w) // group, w.shape[1], math.prod(w.shape[2:]))
    y = np.einsum("ngcpt,gmct->ngmp", parts, filters).reshape(len(x), len(w), *out)
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def _conv_transpose(node: ir.Node, x: Numbers, w: Numbers, b: Numbers | None = None) -> Numbers:
    """With ``output_shape`` or SAME padding, an odd rest is cut off at the front.

    So versions 11 and 22 say, unless auto_pad is SAME_UPPER; the formula of version 1 has it the
    other way round, against the description of its own auto_pad. Engines follow the later one.
    """
    result = on_torch(transposed_convolution)(node, x, w, b)
    return _scattered(node, x, w, b) if result is None else result


def _scattered(node: ir.Node, x: Numbers, w: Numbers, b: Numbers | None) -> Numbers:
    """Every input pixel times the filter, added to where it lies; any number of axes."""
    rank, group = w.ndim - 2, integer(node, "group", 1)
    strides, dilations = (integers(node, n, [1] * rank) for n in ("strides", "dilations"))
    extra = integers(node, "output_padding", [0] * rank)
    size, kernel = list(x.shape[2:]), list(w.shape[2:])
    whole = [
        s * (n - 1) + d * (k - 1) + 1 + e
        for s, n, d, k, e in zip(strides, size, dilations, kernel, extra, strict=True)
    ]
    parts = x.reshape(len(x), group, x.shape[1] // group, *size)
    filters = w.reshape(group, len(w) // group, *w.shape[1:])
    y = np.zeros((len(x), group, w.shape[1], *whole), x.dtype)
    for tap in np.ndindex(*kernel):
        product = np.einsum("ngc...,gcm->ngm...", parts, filters[(..., *tap)])
        each = zip(tap, dilations, strides, size, strict=True)
        positions: Any = (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in each))
        y[positions] += product
    y = y.reshape(len(x), group * w.shape[1], *whole)
    pads = torch_kernels.transposed_pads(node, size, whole, strides)
    for axis in range(rank):  # a negative pad adds zeros
        begin, end, n = pads[axis], pads[rank + axis], whole[axis]
        y = y.take(range(max(begin, 0), n - max(end, 0)), 2 + axis)
        width = [(0, 0)] * y.ndim
        width[2 + axis] = (max(-begin, 0), max(-end, 0))
        y = np.pad(y, width)
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def _gemm(node: ir.Node, a: Numbers, b: Numbers, c: Numbers | None = None) -> Numbers:
    """alpha A' B' + beta C; C may be left out from opset 11 on."""
    a = a.T if integer(node, "transA", 0) else a
    b = b.T if integer(node, "transB", 0) else b
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    y = a @ b
    if alpha != 1:
        y = alpha * y
    if c is not None:
        y = y + (c if beta == 1 else beta * c)
    return y.astype(a.dtype)


def _matmul(_: ir.Node, a: Numbers, b: Numbers) -> Any:
    return np.matmul(a, b)


def _einsum(node: ir.Node, *inputs: Numbers) -> Any:
    equation = text(node, "equation", "").replace(" ", "")
    return np.einsum(equation, *inputs).astype(inputs[0].dtype)


def _det(_: ir.Node, x: Numbers) -> Any:
    return np.linalg.det(x).astype(x.dtype)


def _deform_conv(
    node: ir.Node,
    x: Numbers,
    w: Numbers,
    offset: Numbers,
    b: Numbers | None = None,
    mask: Numbers | None = None,
) -> Any:
    """Every tap reads where its offset says, between pixels linearly, zero outside."""
    rank, size, kernel = w.ndim - 2, x.shape[2:], w.shape[2:]
    group, parts = integer(node, "group", 1), integer(node, "offset_group", 1)
    strides, dilations, pads = window(node, list(size), list(kernel))
    out, taps = offset.shape[2:], math.prod(kernel)
    shifts = offset.reshape(len(x), parts, taps, rank, *out)
    scales = np.ones((len(x), parts, taps, *out), x.dtype) if mask is None else mask
    scales = scales.reshape(len(x), parts, taps, *out)
    grid = np.indices(out)
    columns = np.zeros((len(x), x.shape[1], taps, *out), x.dtype)
    each = x.shape[1] // parts
    for tap, position in enumerate(np.ndindex(*kernel)):
        for sample, part in np.ndindex(len(x), parts):
            moved = shifts[sample, part, tap]
            first = [position[i] * dilations[i] - pads[i] for i in range(rank)]
            at = [grid[i] * strides[i] + first[i] + moved[i] for i in range(rank)]
            channels = slice(part * each, (part + 1) * each)
            read = between(x[sample, channels], at)
            columns[sample, channels, tap] = read * scales[sample, part, tap]
    each = x.shape[1] // group * taps
    rows = columns.reshape(len(x), group, each, math.prod(out))
    filters = w.reshape(group, len(w) // group, each)
    y = np.einsum("ngcp,gmc->ngmp", rows, filters).reshape(len(x), len(w), *out)
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def between(x: Numbers, at: list[Any]) -> Numbers:
    """The last axes of ``x`` [channels, ...] read at real coordinates, linearly; zero outside."""
    rank = len(at)
    low = [np.floor(a) for a in at]
    total: Numbers = np.zeros((len(x), *at[0].shape), x.dtype)
    for corner in np.ndindex(*[2] * rank):
        weight: Any = 1.0
        inside: Any = True
        positions = []
        for i in range(rank):
            share = at[i] - low[i]
            weight = weight * (share if corner[i] else 1 - share)
            position = low[i] + corner[i]
            inside = inside & (position >= 0) & (position < x.shape[1 + i])
            positions.append(np.clip(position, 0, x.shape[1 + i] - 1).astype(np.int64))
        total = total + np.where(inside, weight, 0) * x[(slice(None), *positions)]
    return total.astype(x.dtype)


TABLE: Table = {
    "Conv": same(convolve, 1, 11, 22),
    "ConvTranspose": same(_conv_transpose, 1, 11, 22),
    "DeformConv": same(_deform_conv, 19, 22),
    "Det": same(_det, 11, 22),
    "Einsum": same(_einsum, 12, 28),
    "Gemm": same(_gemm, 7, 9, 11, 13),
    "MatMul": same(_matmul, 1, 9, 13),
}
