"""The steps on bytes, but layers, in NumPy: for ``plan_interpreter``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan import quantised as steps
from prunedeploy.runtimes.sparse.plan import unfold


def quantise(step: steps.Quantise, x: Array) -> Array:
    """To bytes."""
    ratio = x.astype(np.float32) / np.float32(step.scale)
    return np.clip(np.rint(ratio).astype(np.float64) + step.zero, 0, 255).astype(np.uint8)


def dequantise(step: steps.Dequantise, x: Array) -> Array:
    """To numbers."""
    return (x.astype(np.int64) - step.zero).astype(np.float32) * np.float32(step.scale)


def add(step: steps.Add8, a: Array, b: Array) -> Array:
    """A sum of two, each product exact until it is added."""
    wide = [
        x.astype(np.float64) - offset for x, offset in zip((a, b), step.offsets[:2], strict=True)
    ]
    first = (wide[1] * step.scales[1] + step.fixed).astype(np.float32)
    total = (wide[0] * step.scales[0] + first).astype(np.float32)
    moved = np.rint(total).astype(np.int64) + step.offsets[2]
    return np.clip(moved, step.low, step.high).astype(np.uint8)


def pool(step: steps.Pool8, x: Array) -> Array:
    """Windows one after the other."""
    made = np.zeros(step.y.shape, np.uint8)
    top, left, bottom, right = step.pads
    height, width = x.shape[2:]
    for i, j in np.ndindex(*step.y.shape[2:]):
        y = i * step.strides[0] - top + np.arange(step.kernel[0]) * step.dilations[0]
        z = j * step.strides[1] - left + np.arange(step.kernel[1]) * step.dilations[1]
        rows, columns = y[(y >= 0) & (y < height)], z[(z >= 0) & (z < width)]
        part = x[:, :, rows][..., columns].astype(np.int64)
        if step.kind == "max":
            made[:, :, i, j] = part.max((2, 3), initial=0)
            continue
        count = rows.size * columns.size
        if step.count_include_pad:
            count = int((y < height + bottom).sum() * (z < width + right).sum())
        factor = np.float32(step.x_scale) / (np.float32(step.y_scale) * np.float32(count))
        total = part.sum((2, 3)) - step.x_zero * rows.size * columns.size
        ratio = total.astype(np.float32) * factor
        made[:, :, i, j] = np.clip(np.rint(ratio) + step.zero, 0, 255)
    return made


def take_apart(step: steps.Unfold, x: Array) -> Array:
    """Rows of every phase, for every column of the window."""
    window = unfold.Window(step.kernel, step.out, step.strides, step.pads, step.dilations)
    images, channels, height, width = x.shape
    layout = unfold.unfold_layout(window)
    made = np.full(
        (channels, images, step.kernel[1], layout.rows, step.out[1]), step.fill, np.uint8
    )
    across = np.arange(step.out[1]) * step.strides[1] - step.pads[1]
    for tap in range(step.kernel[1]):
        z = across + tap * step.dilations[1]
        inside = np.flatnonzero((z >= 0) & (z < width))
        for remainder, first, count in layout.phases:
            for row in range(count):
                y = remainder + row * step.strides[0] - step.pads[0]
                if 0 <= y < height:
                    line = x[:, :, y, z[inside]].transpose(1, 0, 2)
                    made[:, :, tap, first + row, inside] = line
    return made.reshape(channels, -1)


def run(step: Any, views: Sequence[Any]) -> None:
    """Write the result into the last of ``views``, those that the step reads before it."""
    functions = {
        steps.Quantise: quantise,
        steps.Dequantise: dequantise,
        steps.Add8: add,
        steps.Pool8: pool,
        steps.Unfold: take_apart,
    }
    *given, made = views
    made[...] = functions[type(step)](step, *given)
