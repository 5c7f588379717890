"""Operators that read images between their pixels, or choose boxes in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.resizing import cubic
from prunedeploy.reference.table import Kernel, Numbers, Table, integer, listed, number, same, text

CUBIC = -0.75  # the free coefficient of the cubic kernel


def _pixels(grid: Numbers, size: int, corners: bool) -> Numbers:
    """Positions of -1 to 1 as coordinates of an axis."""
    if corners:
        return (grid + 1) / 2 * (size - 1)
    return ((grid + 1) * size - 1) / 2


def _reflected(at: Numbers, size: int, corners: bool) -> Numbers:
    """Coordinates mirrored at the borders until they lie within."""
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    away = np.abs(at - low)
    turns, rest = np.floor(away / span), np.fmod(away, span)
    return np.where(turns % 2 == 0, rest + low, high - rest)


def _padded(at: Numbers, size: int, padding: str, corners: bool) -> Numbers:
    if padding == "border":
        return np.clip(at, 0, size - 1)
    if padding == "reflection":
        return np.clip(_reflected(at, size, corners), 0, size - 1)
    return at


def _read(x: Numbers, positions: list[Numbers]) -> Numbers:
    """``x`` [channels, ...] at whole coordinates, zero outside."""
    inside: Any = True
    for position, size in zip(positions, x.shape[1:], strict=True):
        inside = inside & (position >= 0) & (position <= size - 1)
    each = zip(positions, x.shape[1:], strict=True)
    index: Any = (slice(None), *(np.clip(p, 0, n - 1).astype(np.int64) for p, n in each))
    return np.where(inside, x[index], 0)


def _sample(x: Numbers, at: list[Numbers], mode: str, padding: str, corners: bool) -> Numbers:
    """Sample one image [channels, ...] at the given coordinates of each of its axes."""
    sizes = x.shape[1:]
    if mode != "cubic":
        at = [_padded(a, n, padding, corners) for a, n in zip(at, sizes, strict=True)]
    if mode == "nearest":
        return _read(x, [np.rint(a) for a in at])
    reach = range(2) if mode == "linear" else range(-1, 3)
    low = [np.floor(a) for a in at]
    total: Any = 0
    for tap in np.ndindex(*[len(reach)] * len(at)):
        weight: Any = 1
        positions = []
        for i, step in enumerate(tap):
            position = low[i] + reach[step]
            distance = np.abs(at[i] - position)
            weight = weight * (1 - distance if mode == "linear" else cubic(distance, CUBIC))
            positions.append(
                _padded(position, sizes[i], padding, corners) if mode == "cubic" else position
            )
        total = total + weight * _read(x, positions)
    return np.asarray(total)


def _grid_sample(names: dict[str, str], rank: int | None) -> Kernel:
    """``names`` of the modes, and for how many spatial axes the version is, None for any."""

    def run(node: ir.Node, x: Numbers, grid: Numbers) -> Numbers:
        mode, padding = text(node, "mode", next(iter(names))), text(node, "padding_mode", "zeros")
        if mode not in names or padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"mode {mode!r} with padding_mode {padding!r} is not known")
        if rank is not None and x.ndim != rank + 2:
            raise ValueError(f"{x.ndim - 2} spatial axes, where this version has {rank}")
        corners, sizes = bool(integer(node, "align_corners", 0)), x.shape[2:]
        wide = grid.astype(np.float64 if x.dtype == np.float64 else np.float32)
        samples = []
        for image, positions in zip(x, wide, strict=True):
            # the grid names the last axis first
            at = [_pixels(positions[..., -1 - i], n, corners) for i, n in enumerate(sizes)]
            samples.append(_sample(image, at, names[mode], padding, corners))
        return np.stack(samples).astype(x.dtype)

    return run


OF_16 = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
OF_20 = {"linear": "linear", "nearest": "nearest", "cubic": "cubic"}


def _affine_grid(node: ir.Node, theta: Numbers, size: Numbers) -> Numbers:
    sizes = listed(size)[2:]
    axes = []
    for n in sizes:
        if integer(node, "align_corners", 0) and n < 2:
            raise ValueError("one element with align_corners, which is not defined")
        corners = integer(node, "align_corners", 0)
        axes.append(np.linspace(-1, 1, n) if corners else (2 * np.arange(n) + 1) / n - 1)
    positions = np.meshgrid(*axes, indexing="ij")
    base = np.stack([*reversed(positions), np.ones(sizes)], -1).astype(theta.dtype)
    return np.stack([base @ matrix.T for matrix in theta])


def _line(at: Numbers, size: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Two neighbours of every coordinate, and what share the second has; none far outside."""
    valid = (at >= -1) & (at <= size)
    at = np.maximum(at, 0)
    low = np.minimum(np.floor(at).astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    return low, high, np.where(low == size - 1, 0, at - low), valid


def _roi_align(default: str) -> Kernel:
    """``default``: before opset 16 coordinates were not moved by half a pixel."""

    def run(node: ir.Node, x: Numbers, rois: Numbers, images: Numbers) -> Numbers:
        how = text(node, "coordinate_transformation_mode", default)
        shift = 0.5 if how == "half_pixel" else 0.0
        if how not in ("half_pixel", "output_half_pixel"):
            raise ValueError(f"coordinate_transformation_mode {how!r} is not known")
        mode = text(node, "mode", "avg")
        if mode not in ("avg", "max"):
            raise ValueError(f"mode {mode!r} is not known")
        out = integer(node, "output_height", 1), integer(node, "output_width", 1)
        ratio, scale = integer(node, "sampling_ratio", 0), number(node, "spatial_scale", 1.0)
        samples = np.zeros((len(rois), x.shape[1], *out), x.dtype)
        for index, (roi, image) in enumerate(zip(rois, listed(images), strict=True)):
            left, top, right, bottom = (roi * x.dtype.type(scale) - x.dtype.type(shift)).tolist()
            high, wide = bottom - top, right - left
            if not shift:
                high, wide = max(high, 1.0), max(wide, 1.0)
            rows = _points(top, high, out[0], ratio)
            columns = _points(left, wide, out[1], ratio)
            samples[index] = _pooled(x[image], rows, columns, mode)
        return samples

    return run


def _points(start: float, length: float, bins: int, ratio: int) -> Numbers:
    """Where each bin is read: [bins, points]."""
    count = ratio if ratio > 0 else max(math.ceil(length / bins), 0)
    step = length / bins
    inner = (np.arange(count) + 0.5) * step / max(count, 1)
    return start + np.arange(bins)[:, None] * step + inner


def _pooled(image: Numbers, rows: Numbers, columns: Numbers, mode: str) -> Any:
    r0, r1, rs, rv = _line(rows, image.shape[1])
    c0, c1, cs, cv = _line(columns, image.shape[2])

    def at(r: Numbers, c: Numbers) -> Numbers:
        picked: Numbers = image[:, r[:, :, None, None], c[None, None]]
        return picked

    def share(r: Numbers, c: Numbers) -> Any:
        weight: Numbers = (
            r[:, :, None, None] * c[None, None] * (rv[:, :, None, None] & cv[None, None])
        )
        return weight

    parts = [
        share(1 - rs, 1 - cs) * at(r0, c0),
        share(1 - rs, cs) * at(r0, c1),
        share(rs, 1 - cs) * at(r1, c0),
        share(rs, cs) * at(r1, c1),
    ]
    # [channels, bins, points, bins, points]
    if not rows.shape[1] or not columns.shape[1]:
        return np.zeros((len(image), len(rows), len(columns)), image.dtype)
    if mode == "max":  # of what each pixel gives to a point, not of the points: so ONNX's example
        return np.maximum.reduce(parts).max(axis=(2, 4))
    return np.add.reduce(parts).mean(axis=(2, 4))


def _corners(boxes: Numbers, centred: bool) -> Numbers:
    if centred:
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    one, two = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(one, two), np.maximum(one, two)], -1)


def _overlap(box: Numbers, others: Numbers) -> Numbers:
    """The intersection over union of ``box`` with each of ``others``."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), -1)
    areas = np.prod(others[:, 2:] - others[:, :2], -1)
    union = np.prod(box[2:] - box[:2]) + areas - common
    return np.where((union > 0) & (common > 0), common / np.where(union > 0, union, 1), 0)


def _suppression(
    node: ir.Node,
    boxes: Numbers,
    scores: Numbers,
    max_boxes: Any = None,
    overlap: Any = None,
    min_score: Any = None,
) -> Numbers:
    """The best box first; every box that overlaps a chosen one too much is left out."""
    limit = 0 if max_boxes is None else int(max_boxes.reshape(()))
    bound = 0.0 if overlap is None else overlap.reshape(())
    kept = []
    corners = _corners(boxes, bool(integer(node, "center_point_box", 0)))
    for image in range(len(boxes)):
        for kind in range(scores.shape[1]):
            each = scores[image, kind]
            left = np.argsort(-each, kind="stable")
            if min_score is not None:
                left = left[each[left] > min_score.reshape(())]
            chosen = 0
            while len(left) and chosen < limit:
                first, left = left[0], left[1:]
                kept.append((image, kind, int(first)))
                chosen += 1
                left = left[_overlap(corners[image, first], corners[image, left]) <= bound]
    return np.array(kept, np.int64).reshape(-1, 3)


TABLE: Table = {
    "AffineGrid": same(_affine_grid, 20),
    "GridSample": same(_grid_sample(OF_16, 2), 16) | same(_grid_sample(OF_20, None), 20, 22),
    "NonMaxSuppression": same(_suppression, 10, 11),
    "RoiAlign": same(_roi_align("output_half_pixel"), 10) | same(_roi_align("half_pixel"), 16, 22),
}
