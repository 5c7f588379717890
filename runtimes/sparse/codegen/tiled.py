"""Tiled layers: packed weights among the constants, an instance of a kernel, and the call."""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._activation import bounds, instance
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import record
from prunedeploy.runtimes.sparse.kernels.jit.packing import relocated
from prunedeploy.runtimes.sparse.kernels.kernel import Kernel
from prunedeploy.runtimes.sparse.kernels.packing import PackedWeights, Part
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule import schedule as schedules
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry

HEADERS = ("conv.h", "functions.h")
LOG_UNIT = {1: 0, 16: 4}  # log2 of what offsets count in


def emit(step: Conv, context: Context, schedule: Schedule, kernel: Kernel) -> Code:
    """The C of ``step`` with the schedule ``schedule``, which is one of ``kernel``."""
    assert kernel.pack is not None
    layout = geometry(step, schedule)
    packed = kernel.pack(step, schedule, layout, context.blocks)
    spilled = len(packed.panels) > 1 or packed.reloads
    function, top = _function(step, schedule, layout, spilled, kernel)
    size = _panel_elements(schedule, layout, packed)
    record = _record(step, context, schedule, layout, packed, kernel)
    body = (
        f"static const pd_conv layer = {record};\n"
        f"pd_conv_run(w, &layer, {context.pointers(step.x, step.y, step.residual)}, "
        f"{function}, {size});"
    )
    spilled_rows = packed.rows_of_group * schedule.groups if spilled else 0
    spilled_rows = max(spilled_rows, kernel.spilled_rows(step, schedule))
    scratch = size + spilled_rows * schedule.elements
    needed = kernel.cycles(step, schedule, context.scope)
    return Code(body, (top,), HEADERS, scratch, kernel.describe(schedule), needed, kernel.name)


def _function(
    step: Conv, schedule: Schedule, layout: schedules.Geometry, spilled: bool, kernel: Kernel
) -> tuple[str, str]:
    """The name of the kernel's instance, and the text that makes it; ``spilled``: sums are."""
    settings = {
        "TILE_ROWS": 1 if schedule.packing == "shared_border" else schedule.tile_rows,
        "TILE_WIDTH_X8": schedule.tile_width_x8,
        "PITCH": layout.pitch,
        "LOG_UNIT": LOG_UNIT[layout.unit],
    }
    kind = schedule.kernel
    if schedule.packing == "shared_border":
        kind, settings = f"{kind}_shared_border", {"SHARED_BORDER": layout.columns, **settings}
    if schedule.interleaved:
        kind, settings = f"{kind}_interleaved", {"INTERLEAVED": schedule.interleaved, **settings}
    settings = kernel.settings(step, schedule, spilled, settings)
    name = "_".join(["pd", kind, *map(str, settings.values())])
    return instance(name, kernel.header, settings, step)


def _panel_elements(schedule: Schedule, layout: schedules.Geometry, packed: PackedWeights) -> int:
    """Scratch of a packed panel, with what the last vectors read behind it."""
    if layout.flat and schedule.packing == "none":
        return 0
    widest = max(end - begin for begin, end in packed.panels)
    return -(-(widest * layout.channel + schedule.tile_width_x8 * 8 + 16) // 16) * 16


def _record(
    step: Conv,
    context: Context,
    schedule: Schedule,
    layout: schedules.Geometry,
    packed: PackedWeights,
    kernel: Kernel,
) -> str:
    store = context.constants.add
    images, _, height, width = step.x.shape
    block = schedules.inside(step)
    parts = [_part(part, context) for group in packed.parts for part in group]
    low, high = bounds(step)
    fields = {
        "rows": step.weight.shape[0],
        "tiles": layout.tiles,
        "groups": schedule.groups,
        "panels": len(packed.panels),
        "pixels": schedules.pixels(step),
        "tile": layout.tile,
        "columns": layout.columns,
        "images": images // block,
        "block": block,
        "height": height,
        "width": width * block,
        "out_height": step.y.shape[2],
        "out_width": schedules.row_size(step),
        "row_step": step.strides[0],
        "column_step": step.strides[1],
        "packed": int(schedule.packing != "none"),
        "channel": layout.channel,
        "phases": len(layout.phases),
        "x_stride": step.x.strides[1],
        "y_stride": step.y.strides[1],
        "residual_stride": 0 if step.residual is None else step.residual.strides[1],
        "winograd": int(kernel.transforms is not None),
        "interleaved": schedule.interleaved,
        "taps": step.weight[0, 0].size if schedule.packing == "im2col" else 0,
        "phase": store(phases(layout.phases)),
        "panel": store(np.array(packed.panels, np.int32)),
        "part": store(np.array(parts, PART)),
        "bias": store(step.bias.astype(np.float32)),
        "gather": store(_gather(step)) if schedule.packing == "im2col" else 0,
        "transform": store(kernel.transforms(schedule, layout)) if kernel.transforms else 0,
        "low": low,
        "high": high,
    }
    return record(fields)


PART = np.dtype(
    [
        ("segments", "<u4"),
        ("first", "<u4"),
        ("segment", "<u8"),
        ("offset", "<u8"),
        ("weight", "<u8"),
    ]
)


def phases(halo: tuple[schedules.Phase, ...]) -> Array:
    """The table of pd_phase."""
    rows = [(f.row, f.row_step, f.rows, f.column, f.column_step, f.width, f.offset) for f in halo]
    return np.array(rows or [(0,) * 7], np.int32)


def _gather(step: Conv) -> Array:
    """For each tap and pixel of the result the input's pixel under it, -1 outside of the image."""
    images, _, height, width = step.x.shape
    _, _, rows, columns = step.y.shape
    kernel_height, kernel_width = step.weight.shape[2:]
    down = np.arange(kernel_height)[:, None] * step.dilations[0] - step.pads[0]
    across = np.arange(kernel_width)[:, None] * step.dilations[1] - step.pads[1]
    row = (down + np.arange(rows) * step.strides[0])[:, None, None, :, None]
    column = (across + np.arange(columns) * step.strides[1])[None, :, None, None, :]
    image = np.arange(images)[None, None, :, None, None] * (height * width)
    index = image + row * width + column
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    index = np.where(outside, -1, index).reshape(kernel_height * kernel_width, -1)
    padding = -index.shape[1] % UNIT
    return np.pad(index, ((0, 0), (0, padding)), constant_values=-1).astype(np.int32)


def _part(part: Part, context: Context) -> tuple[int, ...]:
    store = context.constants.add
    row_segments = part.row_segments
    if part.code is not None:
        row_segments = relocated(row_segments, context.code.add(part.code))
    return len(row_segments), part.first, *map(store, (row_segments, part.offsets, part.weights))
