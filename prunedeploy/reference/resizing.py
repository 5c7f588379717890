"""Resize and Upsample: every axis in turn, as weighted sums of the elements around.

Coordinates are float32, as engines have them: which pixel is the nearest depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference import table
from prunedeploy.reference.table import Numbers, Table, along, has, integer, number, same, text

F32 = np.float32


@dataclass(frozen=True)
class Axis:
    """One axis: its length, the result's length, the scale between them, the part that is read."""

    size: int
    out: int
    scale: np.float32
    start: float = 0.0
    end: float = 1.0

    @property
    def steps(self) -> Numbers:
        """The indices of the result."""
        return np.arange(self.out, dtype=F32)


def _half_pixel(a: Axis) -> Numbers:
    return (a.steps + F32(0.5)) / a.scale - F32(0.5)


def _pytorch(a: Axis) -> Numbers:
    return _half_pixel(a) if a.out > 1 else np.zeros(a.out, F32)


def _symmetric(a: Axis) -> Numbers:
    """The centre of the input lies at the centre of the result."""
    adjustment = F32(a.out) / (a.scale * F32(a.size))
    offset = F32(a.size) / F32(2) * (F32(1) - adjustment)
    return offset + (a.steps + F32(0.5)) / a.scale - F32(0.5)


def _align_corners(a: Axis) -> Numbers:
    if a.out == 1:
        return np.zeros(1, F32)
    return a.steps * F32(a.size - 1) / F32(a.out - 1)


def _asymmetric(a: Axis) -> Numbers:
    return a.steps / a.scale


def _tf_nearest(a: Axis) -> Numbers:
    return (a.steps + F32(0.5)) / a.scale


def _crop(a: Axis) -> Numbers:
    last = F32(a.size - 1)
    if a.out == 1:
        return np.full(1, F32(0.5) * F32(a.start + a.end) * last, F32)
    step = F32(a.end - a.start) * last / F32(a.out - 1)
    return F32(a.start) * last + a.steps * step


COORDINATES: dict[str, Callable[[Axis], Numbers]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop,
}
OF_11 = COORDINATES | {"tf_half_pixel_for_nn": _tf_nearest}
OF_19 = COORDINATES | {"half_pixel_symmetric": _symmetric}

TIE = 1e-6  # how far from the middle of two elements float32 cannot tell


def nearest(at: Numbers, how: str) -> Numbers:
    """The whole number that coordinates are rounded to; ``how`` decides between two neighbours."""
    wide = at.astype(np.float64)
    if how == "floor":
        return np.floor(wide)
    if how == "ceil":
        return np.ceil(wide)
    low = np.floor(wide)
    past = wide - low - 0.5
    up = past > TIE if how == "round_prefer_floor" else past > -TIE
    if how not in ("round_prefer_floor", "round_prefer_ceil"):
        raise ValueError(f"nearest_mode {how!r} is not known")
    return low + up


def cubic(t: Numbers, a: float) -> Numbers:
    """The weight at distance ``t`` (Keys, 1981, equation 4)."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _triangle(t: Numbers) -> Any:
    return np.maximum(0, 1 - np.abs(t))


@dataclass(frozen=True)
class Taps:
    """For every index of the result the elements that it is made of, and their weights."""

    index: Numbers  # [out, taps], may lie outside of the axis
    weight: Numbers  # [out, taps]

    def inside_only(self, size: int) -> Taps:
        """Weights of what is outside taken away, the others scaled to a sum of 1."""
        inside = (self.index >= 0) & (self.index < size)
        weight = np.where(inside, self.weight, 0)
        total = weight.sum(1, keepdims=True)
        return Taps(self.index, weight / np.where(total == 0, 1, total))


def _around(at: Numbers, kernel: Callable[[Numbers], Numbers], reach: int) -> Taps:
    low = np.floor(at)
    index = low[:, None] + np.arange(1 - reach, reach + 1)
    return Taps(index.astype(np.int64), kernel(at[:, None] - index))


def _stretched(at: Numbers, kernel: Callable[[Numbers], Numbers], reach: int, scale: float) -> Taps:
    """The kernel made wider by 1 / scale: what falls between the results is averaged."""
    scale = min(scale, 1.0)
    count = math.ceil(reach / scale) + 1
    index = np.floor(at)[:, None] + np.arange(-count, count + 1)
    weight = kernel((at[:, None] - index) * scale)
    return Taps(index.astype(np.int64), weight / weight.sum(1, keepdims=True))


def taps_of(node: ir.Node, axis: Axis, at: Numbers) -> Taps:
    """What the results along an axis, which lie ``at`` these coordinates, are made of."""
    mode = text(node, "mode", "nearest")
    if mode == "nearest":
        indices = nearest(at, text(node, "nearest_mode", "round_prefer_floor")).astype(np.int64)
        return Taps(indices[:, None], np.ones((len(at), 1)))
    a = number(node, "cubic_coeff_a", -0.75)
    kernel = _triangle if mode == "linear" else lambda t: cubic(t, a)
    reach = 1 if mode == "linear" else 2
    at = at.astype(np.float64)
    if integer(node, "antialias", 0):
        taps = _stretched(at, kernel, reach, float(axis.scale))
    else:
        taps = _around(at, kernel, reach)
    return taps.inside_only(axis.size) if integer(node, "exclude_outside", 0) else taps


def _along(x: Numbers, taps: Taps, axis: int) -> Numbers:
    index = np.clip(taps.index, 0, x.shape[axis] - 1)
    if index.shape[1] == 1:
        return x.take(index[:, 0], axis)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    total: Any = 0
    for tap in range(index.shape[1]):
        weight = along(taps.weight[:, tap].astype(wide), axis, x.ndim)
        total = total + x.take(index[:, tap], axis) * weight
    return np.asarray(total)


def _axes(node: ir.Node, x: Numbers, roi: Any, scales: Any, sizes: Any) -> dict[int, Axis]:
    """The axes to resize, ``axes`` of them from opset 18 on, all before."""
    chosen = table.integers(node, "axes") if has(node, "axes") else list(range(x.ndim))
    chosen = [table.within(axis, x.ndim) for axis in chosen]
    whole = [0.0] * len(chosen) + [1.0] * len(chosen)
    parts = whole if roi is None or not roi.size else [float(r) for r in roi]
    if text(node, "coordinate_transformation_mode", "") != "tf_crop_and_resize":
        parts = whole
    starts, ends = parts[: len(chosen)], parts[len(chosen) :]
    if sizes is not None and sizes.size:
        return _by_sizes(node, x, chosen, table.listed(sizes), starts, ends)
    if scales is None or scales.size != len(chosen):
        raise ValueError("neither scales nor sizes for every axis")
    axes_by_index = {}
    for i, axis in enumerate(chosen):
        scale, share = F32(scales[i]), F32(ends[i]) - F32(starts[i])
        out = math.floor(F32(x.shape[axis]) * share * scale)
        axes_by_index[axis] = Axis(x.shape[axis], out, scale, starts[i], ends[i])
    return axes_by_index


def _by_sizes(
    node: ir.Node,
    x: Numbers,
    chosen: list[int],
    sizes: list[int],
    starts: list[float],
    ends: list[float],
) -> dict[int, Axis]:
    """``keep_aspect_ratio_policy`` came with opset 18."""
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    scales = [F32(n) / F32(x.shape[a]) for n, a in zip(sizes, chosen, strict=True)]
    if policy != "stretch":
        limit = {"not_larger": min, "not_smaller": max}[policy](scales)
        sizes = [math.floor(F32(limit) * F32(x.shape[a]) + F32(0.5)) for a in chosen]
        scales = [limit] * len(chosen)
    return {
        axis: Axis(x.shape[axis], sizes[i], scales[i], starts[i], ends[i])
        for i, axis in enumerate(chosen)
    }


def _resize(coordinates: dict[str, Callable[[Axis], Numbers]]) -> Any:
    def run(
        node: ir.Node, x: Numbers, roi: Any = None, scales: Any = None, sizes: Any = None
    ) -> Numbers:
        mode = text(node, "coordinate_transformation_mode", "half_pixel")
        if text(node, "mode", "nearest") not in ("nearest", "linear", "cubic"):
            raise ValueError(f"mode {text(node, 'mode', '')!r} is not known")
        if mode not in coordinates:
            raise ValueError(f"coordinate_transformation_mode {mode!r} is not known")
        y, picks = x, text(node, "mode", "nearest") == "nearest"
        axes = _axes(node, x, roi, scales, sizes)
        copied = mode != "tf_crop_and_resize" and all(a.out == a.size for a in axes.values())
        if copied and any(a.scale != 1 for a in axes.values()):
            raise ValueError("scales that change no length: runtimes differ in what that means")
        for axis, each in axes.items():
            still = each.scale == 1 and each.out == each.size and (each.start, each.end) == (0, 1)
            if still:
                continue
            at = coordinates[mode](each)
            y = _along(y, taps_of(node, each, at), axis)
            if mode == "tf_crop_and_resize":
                outside = (at < 0) | (at > each.size - 1)
                beyond = x.dtype.type(number(node, "extrapolation_value", 0.0))
                y = np.where(along(outside, axis, x.ndim), beyond, y)
        return y if picks or x.dtype.kind == "f" else _whole(y, x.dtype)

    return run


def _whole(y: Numbers, dtype: np.dtype[Any]) -> Numbers:
    """Refuse to interpolate integers: ONNX does not say how the results are rounded."""
    if (y != np.floor(y)).any():
        raise ValueError(f"it interpolates {dtype}, whose rounding ONNX leaves to the runtime")
    return y.astype(dtype)


def _old(node: ir.Node, x: Numbers, scales: Any) -> Numbers:
    """Before opset 11: output i lies at i / scale.

    The nearest element is the one before, or behind where an axis gets shorter: so have ONNX's
    own examples of opset 10.
    """
    mode = text(node, "mode", "nearest")
    factors = np.asarray(scales, F32).reshape(-1)
    if len(factors) != x.ndim or mode not in ("nearest", "linear"):
        raise ValueError(f"mode {mode} with scales {factors.tolist()} is not supported")
    y = x
    for axis, factor in enumerate(factors):
        each = Axis(x.shape[axis], math.floor(F32(x.shape[axis]) * factor), factor)
        if factor == 1 or not each.size:
            continue
        at = np.minimum(_asymmetric(each), F32(each.size - 1))
        if mode == "nearest":
            index = np.ceil(at) if factor < 1 else np.floor(at)
            taps = Taps(index.astype(np.int64)[:, None], np.ones((each.out, 1)))
        else:
            taps = _around(at.astype(np.float64), _triangle, 1)
        y = _along(y, taps, axis)
    return y if mode == "nearest" or x.dtype.kind == "f" else _whole(y, x.dtype)


def _old_attribute(node: ir.Node, x: Numbers) -> Numbers:
    return _old(node, x, node.attributes.get_floats("scales", []))


TABLE: Table = {
    "Resize": same(_old, 10)
    | same(_resize(OF_11), 11)
    | same(_resize(COORDINATES), 13, 18)
    | same(_resize(OF_19), 19),
    "Upsample": same(_old_attribute, 7) | same(_old, 9) | table.withdrawn(10),
}
