"""Layers on bytes: packed weights among the constants, and the call."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.views import record
from prunedeploy.runtimes.sparse.kernels.int8.grouping import GROUP_ROWS
from prunedeploy.runtimes.sparse.kernels.int8.packing import (
    PackedLayer,
    Part,
    pack,
    window_of,
)
from prunedeploy.runtimes.sparse.plan import unfold
from prunedeploy.runtimes.sparse.plan.quantised import Conv8

PART = np.dtype(
    [
        *((name, "<i4") for name in ("first", "rows", "quads", "unused")),
        *((name, "<u8") for name in ("offset", "tap", "count", "quad", "weight")),
    ]
)
ACCUMULATORS = GROUP_ROWS * unfold.TILE  # int32 in the scratch


def emit(step: Conv8, context: Context) -> Code:
    """The kernel on bytes."""
    packed = pack(step)
    panel = max(len(part.offset) for group in packed.parts for part in group)
    fields = _fields(step, context, packed)
    body = (
        f"static const pd_int8 c = {record(fields)};\n"
        f"pd_int8_run(w, &c, {context.pointers(step.x, step.y, step.residual)}, {panel});"
    )
    cycles = _cycles(step, packed, context.threads)
    return Code(
        body,
        (),
        ("int8.h",),
        panel * unfold.TILE + ACCUMULATORS,
        "int8 quadruples",
        cycles,
        "int8",
        "int8",
    )


def _fields(step: Conv8, context: Context, packed: PackedLayer) -> dict[str, object]:
    store = context.constants.add
    images, _, height, width = step.y.shape
    window = window_of(step)
    joined = not step.unfolded  # the pixels of all images follow one another
    pixels = height * width * (images if joined else 1)
    masked = joined and window.kernel != (1, 1)
    masks = unfold.masks(images, step.image, window) if masked else None
    parts = [_part(part, context) for group in packed.parts for part in group]
    residual = step.residual.strides if step.residual is not None else (0, 0)
    return {
        "groups": len(packed.parts),
        "panels": packed.panels,
        "images": 1 if joined else images,
        "tiles": -(-pixels // unfold.TILE),
        "pixels": pixels,
        "taps": 0 if masks is None else masks.shape[1],
        "x_image": 0 if joined else unfold.unfold_layout(window).size,
        "y_image": 0 if joined else step.y.strides[0],
        "y_stride": step.y.strides[1],
        "residual_image": 0 if joined else residual[0],
        "residual_stride": residual[1],
        "part": store(np.array(parts, PART)),
        "mask": 0 if masks is None else store(masks),
        "bias": store(packed.bias),
        "scale": store(step.scale),
        "shift": store(step.shift),
        "low": literal(step.low),
        "high": literal(step.high),
        "zero": step.zero or 0,
        "to_bytes": int(step.zero is not None),
        "fill": step.x_zero,
    }


def _part(part: Part, context: Context) -> tuple[int, ...]:
    arrays = (part.offset, part.tap, part.count, part.quad, part.weight)
    stored = (context.constants.add(array) for array in arrays)
    return (part.first, part.rows, len(part.offset), 0, *stored)


def _cycles(step: Conv8, packed: PackedLayer, threads: int) -> float:
    """What the cost model says: entries and packing for every tile, of the busiest thread."""
    pixels = math.prod(step.y.shape) // max(step.y.shape[1], 1)
    tiles = -(-pixels // unfold.TILE)
    once = 4.0 * packed.entries + 12.0 * packed.quads + 16.0 * step.y.shape[1]
    return once * -(-tiles * len(packed.parts) // threads) / len(packed.parts)
