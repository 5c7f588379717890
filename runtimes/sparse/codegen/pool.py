"""Pools: their geometry for the one kernel."""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import over_read, plane_strides, record
from prunedeploy.runtimes.sparse.plan.batch_innermost import innermost_images
from prunedeploy.runtimes.sparse.plan.quantised import Pool8
from prunedeploy.runtimes.sparse.plan.steps import Pool
from prunedeploy.runtimes.sparse.plan.views import UNIT


def emit(step: Pool, context: Context) -> Code:
    """One call; scratch holds a padded row, and its phases where the window has a stride."""
    if innermost_images(step.x) > 1:
        return _side_by_side(step, context)
    pitch = _pitch(step)
    counts = {"row_counts": "0", "column_counts": "0"}
    if step.kind == "average":
        for axis, name in enumerate(counts):
            table = np.ones(step.y.shape[2 + axis] + UNIT, np.float32)  # read by whole vectors
            table[:-UNIT] = _counts(step, axis)
            counts[name] = context.constant(table)
    body = (
        f"const pd_pool p = {record(_fields(step, context) | counts)};\n"
        f"pd_pool_{step.kind}(w, &p, {context.pointer(step.x)}, {context.pointer(step.y)});"
    )
    rows = 2 if step.strides[1] > 1 else 1
    return Code(body, (), ("pool.h",), rows * step.strides[1] * pitch, step.kind)


def _side_by_side(step: Pool, context: Context) -> Code:
    """A pixel is a vector for each image: windows are joined vector by vector."""
    counts = {"row_counts": "0", "column_counts": "0"}
    if step.kind == "average":
        for axis, name in enumerate(counts):
            counts[name] = context.constant(_counts(step, axis))
    fields = {
        **{name: value for name, value in geometry(step).items() if name != "images"},
        "images": step.x.shape[0],
        "x_channel": step.x.strides[1],
        "y_channel": step.y.strides[1],
    }
    body = (
        f"const pd_pool_blocks p = {record(fields | counts)};\n"
        f"pd_pool_blocks_run(w, &p, {context.pointer(step.x)}, {context.pointer(step.y)}, "
        f"{int(step.kind == 'max')});"
    )
    return Code(body, (), ("pool_blocks.h",), 0, f"{step.kind} side by side")


def _pitch(step: Pool) -> int:
    """Elements of a phase of a padded row: room for all that is read, and for all of x."""
    vectors = -(-step.y.shape[3] // UNIT) * UNIT
    reach = (step.kernel[1] - 1) * step.dilations[1] // step.strides[1]
    # x is written, and taken apart, by whole vectors
    held = -(-(step.pads[1] + step.x.shape[3] + UNIT) // step.strides[1]) + UNIT
    return -(-max(vectors + reach + 1, held) // UNIT) * UNIT


def _fields(step: Pool, context: Context) -> dict[str, object]:
    x, y = step.x, step.y
    return geometry(step) | {
        "pitch": _pitch(step),
        "reach": (y.shape[3] - 1) * step.strides[1] + (step.kernel[1] - 1) * step.dilations[1] + 1,
        "exact": int(not over_read(context, x)),
        **plane_strides(x, y),
    }


def geometry(step: Pool | Pool8) -> dict[str, object]:
    """Sizes of the planes and of the window, and where the first window begins."""
    x, y = step.x, step.y
    return {
        "images": x.shape[0],
        "channels": x.shape[1],
        "height": x.shape[2],
        "width": x.shape[3],
        "out_height": y.shape[2],
        "out_width": y.shape[3],
        "kernel_height": step.kernel[0],
        "kernel_width": step.kernel[1],
        "row_step": step.strides[0],
        "column_step": step.strides[1],
        "row_dilation": step.dilations[0],
        "column_dilation": step.dilations[1],
        "top": step.pads[0],
        "left": step.pads[1],
    }


def _counts(step: Pool, axis: int) -> Array:
    """How many elements of the input, or of it and its border, each window has along ``axis``."""
    size, kernel, stride = step.x.shape[2 + axis], step.kernel[axis], step.strides[axis]
    before, after = step.pads[axis], step.pads[axis + 2]
    low, high = (-before, size + after) if step.count_include_pad else (0, size)
    starts = np.arange(step.y.shape[2 + axis])[:, None] * stride - before
    taps = starts + np.arange(kernel) * step.dilations[axis]
    counts: Array = ((taps >= low) & (taps < high)).sum(1).astype(np.float32)
    return counts
