"""Pools: windows that slide over the spatial axes, of any number.

Where torch has the operator it computes it, which keeps a ResNet-50 under a second; all other forms
are computed here from a view of the windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from prunedeploy.reference import table
from prunedeploy.reference.on_torch import on_torch
from prunedeploy.reference.table import Kernel, Numbers, Table, integer, integers, same, wanted
from prunedeploy.reference.torch_kernels import average_pool, max_pool, window


@dataclass(frozen=True)
class Windows:
    """Where windows lie along each spatial axis.

    ``more`` are elements that the last window reaches beyond the padding at the end.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    out: list[int]
    more: list[int]

    @classmethod
    def of(cls, node: ir.Node, size: list[int]) -> Windows:
        """The windows of a pool over spatial axes of ``size``.

        Raises:
            ValueError: there is no window, or the numbers do not fit the axes.
        """
        kernel, rank = integers(node, "kernel_shape"), len(size)
        strides, dilations, pads = window(node, size, kernel)
        if any(len(n) != rank for n in (kernel, strides, dilations)) or len(pads) != 2 * rank:
            raise ValueError(f"windows of {len(kernel)} axes over {rank}")
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        begins, ends = pads[:rank], pads[rank:]
        out, more = [], []
        for n, span, stride, begin, end in zip(size, spans, strides, begins, ends, strict=True):
            room = n + begin + end - span
            count = room // stride + 1
            if integer(node, "ceil_mode", 0):
                count = -(-room // stride) + 1
                # one that would begin behind the data, in the padding at the end, is none
                count -= int((count - 1) * stride >= n + begin)
            if room < 0 or count < 1:
                raise ValueError(f"a window of {span} over {n} elements")
            out.append(count)
            more.append(max(0, (count - 1) * stride + span - n - begin - end))
        return cls(kernel, strides, dilations, begins, ends, out, more)

    def view(self, x: Numbers, fill: Any) -> Numbers:
        """All windows: the axes of the result, then those of one window."""
        rank = len(self.kernel)
        width = [(0, 0)] * (x.ndim - rank) + [
            (b, e + m) for b, e, m in zip(self.begins, self.ends, self.more, strict=True)
        ]
        padded = np.pad(x, width, constant_values=fill)
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(x.ndim - rank, x.ndim))
        windows = sliding_window_view(padded, spans, axes)
        steps = [slice(None)] * (x.ndim - rank)
        steps += [slice(0, (n - 1) * s + 1, s) for n, s in zip(self.out, self.strides, strict=True)]
        steps += [slice(None, None, d) for d in self.dilations]
        return windows[tuple(steps)]

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes of one window in ``view``."""
        return tuple(range(-len(self.kernel), 0))


def lowest(dtype: np.dtype[Any]) -> Any:
    """The lowest value of the type."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max_pool(node: ir.Node, x: Numbers) -> Any:
    """MaxPool: integers since opset 12, indices since 8, dilations and ceil_mode since 10."""
    if not wanted(node, 1) and x.dtype.kind == "f":
        result = on_torch(max_pool)(node, x)
        if result is not None:
            return result
    layout, padding = Windows.of(node, list(x.shape[2:])), lowest(x.dtype)
    flat = _flat(layout.view(x, padding), x.ndim)
    y = flat.max(-1, initial=padding)
    if not wanted(node, 1):
        return y
    # the first of the largest, and never one of the padding
    data = _flat(layout.view(np.ones(x.shape, bool), False), x.ndim)
    first = ((flat == y[..., None]) & data).argmax(-1)
    return y, _indices(node, x, layout, first)


def _flat(view: Numbers, rank: int) -> Numbers:
    return view.reshape(*view.shape[:rank], -1)


def _indices(node: ir.Node, x: Numbers, layout: Windows, first: Numbers) -> Any:
    """The flat index in the input of every window's element ``first``."""
    taps = np.unravel_index(first, layout.kernel)
    rank, size = len(layout.kernel), list(x.shape[2:])
    positions = []
    for axis, tap in enumerate(taps):
        start = table.along(np.arange(layout.out[axis]), 2 + axis, x.ndim) * layout.strides[axis]
        positions.append(start + tap * layout.dilations[axis] - layout.begins[axis])
    order = range(rank) if integer(node, "storage_order", 0) == 0 else reversed(range(rank))
    index: Numbers = np.zeros(first.shape, np.int64)
    for axis in order:
        index = index * size[axis] + positions[axis]
    images = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * rank)
    return index + images * math.prod(size)


def _average_pool(node: ir.Node, x: Numbers) -> Any:
    """The padding counts where asked for; what lies beyond it, under ceil_mode, never does."""
    result = on_torch(average_pool)(node, x)
    if result is not None:
        return result
    layout = Windows.of(node, list(x.shape[2:]))
    total = layout.view(x, 0).sum(layout.inner)
    ones = np.ones(x.shape[2:], x.dtype)
    if integer(node, "count_include_pad", 0):
        ones = np.pad(ones, list(zip(layout.begins, layout.ends, strict=True)), constant_values=1)
        zeros = [0] * len(layout.kernel)
        inside = replace(layout, begins=zeros, ends=zeros)
        return total / inside.view(ones, 0).sum(inside.inner)
    return total / layout.view(ones, 0).sum(layout.inner)


def _lp_pool(node: ir.Node, x: Numbers) -> Any:
    p = float(integer(node, "p", 2))
    layout = Windows.of(node, list(x.shape[2:]))
    return (np.abs(layout.view(x, 0)) ** p).sum(layout.inner) ** (1 / p)


def _spatial(x: Numbers) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _global_average(_: ir.Node, x: Numbers) -> Any:
    return x.mean(axis=_spatial(x), keepdims=True)


def _global_max(_: ir.Node, x: Numbers) -> Any:
    return x.max(axis=_spatial(x), keepdims=True)


def _global_lp(node: ir.Node, x: Numbers) -> Any:
    p = float(integer(node, "p", 2))
    return (np.abs(x) ** p).sum(axis=_spatial(x), keepdims=True) ** (1 / p)


def _max_unpool(
    node: ir.Node, x: Numbers, indices: Numbers, shape: Numbers | None = None
) -> Numbers:
    """Undo MaxPool; indices are those into the whole tensor that was pooled."""
    kernel, rank = integers(node, "kernel_shape"), x.ndim - 2
    strides, pads = integers(node, "strides", [1] * rank), integers(node, "pads", [0] * 2 * rank)
    pooled = [
        (n - 1) * s + k - pads[i] - pads[rank + i]
        for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    y = np.zeros((*x.shape[:2], *pooled), x.dtype)
    y.reshape(-1)[indices.reshape(-1)] = x.reshape(-1)
    if shape is None:
        return y
    whole = np.zeros([int(n) for n in shape], x.dtype)
    whole[tuple(slice(n) for n in y.shape)] = y
    return whole


def _max_roi_pool(node: ir.Node, x: Numbers, rois: Numbers) -> Numbers:
    """Regions on whole pixels, both ends included; bins may overlap (Girshick, 2015)."""
    high, wide = integers(node, "pooled_shape")
    scale = table.number(node, "spatial_scale", 1.0)
    y = np.zeros((len(rois), x.shape[1], high, wide), x.dtype)
    for index, (image, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (math.floor(c * scale + 0.5) for c in corners)
        rows = _bins(top, max(bottom - top + 1, 1), high, x.shape[2])
        columns = _bins(left, max(right - left + 1, 1), wide, x.shape[3])
        for i, (r0, r1) in enumerate(rows):
            for j, (c0, c1) in enumerate(columns):
                if r1 > r0 and c1 > c0:
                    y[index, :, i, j] = x[int(image), :, r0:r1, c0:c1].max(axis=(1, 2))
    return y


def _bins(first: int, length: int, count: int, size: int) -> list[tuple[int, int]]:
    step = np.float32(length) / np.float32(count)
    edges = [
        (math.floor(i * step) + first, math.ceil((i + 1) * step) + first) for i in range(count)
    ]
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


def _col2im(node: ir.Node, x: Numbers, image: Numbers, block: Numbers) -> Any:
    """Every column added to where its block lies."""
    size, kernel = [int(n) for n in image], [int(n) for n in block]
    rank = len(size)
    strides, dilations = (integers(node, n, [1] * rank) for n in ("strides", "dilations"))
    pads = integers(node, "pads", [0] * 2 * rank)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    whole = [n + pads[i] + pads[rank + i] for i, n in enumerate(size)]
    out = [(n - s) // t + 1 for n, s, t in zip(whole, spans, strides, strict=True)]
    columns = x.reshape(len(x), -1, *kernel, *out)
    y = np.zeros((*columns.shape[:2], *whole), x.dtype)
    for tap in np.ndindex(*kernel):
        each = zip(tap, dilations, strides, out, strict=True)
        positions: Any = (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in each))
        y[positions] += columns[(slice(None), slice(None), *tap)]
    kept: list[Any] = [..., *(slice(pads[i], pads[i] + n) for i, n in enumerate(size))]
    return y[tuple(kept)]


def _same_pads_only(kernel: Kernel) -> Kernel:
    """Refuse an ``auto_pad`` that ONNX does not define."""

    def run(node: ir.Node, *inputs: Any) -> Any:
        auto = table.text(node, "auto_pad", "NOTSET")
        if auto not in ("", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise ValueError(f"auto_pad {auto!r} is not known")
        return kernel(node, *inputs)

    return run


TABLE: Table = {
    "AveragePool": same(_same_pads_only(_average_pool), 7, 10, 11, 19, 22),
    "Col2Im": same(_col2im, 18),
    "GlobalAveragePool": same(_global_average, 1, 22),
    "GlobalLpPool": same(_global_lp, 2, 22),
    "GlobalMaxPool": same(_global_max, 1, 22),
    "LpPool": same(_same_pads_only(_lp_pool), 2, 11, 18, 22),
    "MaxPool": same(_same_pads_only(_max_pool), 1, 8, 10, 11, 12, 22),
    "MaxRoiPool": same(_max_roi_pool, 1, 22),
    "MaxUnpool": same(_max_unpool, 9, 11, 22),
}
