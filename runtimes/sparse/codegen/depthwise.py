"""Convolutions of which every output channel reads one input channel."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.codegen._activation import bounds, instance
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.tiled import HEADERS, phases
from prunedeploy.runtimes.sparse.codegen.views import record
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import (
    Geometry,
    Schedule,
    geometry,
    inside,
    is_flat,
    row_size,
)

MAX_TAPS = 49  # that the kernel writes out one by one: 7 x 7
TALL = 4  # rows of pixels computed at once, PD_TALL in C
BAND = 24 * 1024  # bytes of a packed channel, to stay in the first-level cache


def suits(step: Conv) -> bool:
    """Whether ``step`` is such a layer, of a window that is worth unrolling."""
    _, width, height, across = step.weight.shape
    return width == 1 and step.groups > 1 and height * across <= MAX_TAPS and not is_flat(step)


def emit(step: Conv, context: Context) -> Code:
    """One instance of the kernel for each kind of window and width."""
    if ISAS[context.isa].masked_loads and step.strides[1] in (1, 2):
        return _masked(step, context)
    layout = _layout(step)
    taps = [offset for row in layout.taps for offset in row]
    settings = {
        "COUNT": str(len(taps)),
        "BODY": _body(_loads(taps, layout.pitch)),
        "PITCH": str(layout.pitch),
    }
    name = f"pd_depthwise_{layout.pitch}_" + "_".join(map(str, taps))
    name, top = instance(name, "depthwise.h", settings, step)
    call = f"{_arguments(step, context)}, {name}"
    body = (
        f"static const pd_conv layer = {_record(step, context, layout)};\n"
        f"pd_depthwise_run(w, &layer, {call});"
    )
    scratch = layout.channel + TALL * layout.pitch + 64
    return _code(body, top, scratch, "depthwise packed")


def _masked(step: Conv, context: Context) -> Code:
    """Rows read where they lie, masked at the borders."""
    height, width = step.weight.shape[2:]
    block = inside(step)
    columns = [(k * step.dilations[1] - step.pads[1]) * block for k in range(width)]
    every = step.strides[1] if block == 1 else 1  # elements from one pixel that is read to the next
    across = step.x.shape[3] * block
    listed = ", ".join(map(str, columns))
    settings = {
        "COUNT": str(height * width),
        "ACROSS": str(width),
        "COLUMNS": f"{{{listed}}}",
        "BODY": _body(_windows(step)),
        "WIDTH": str(across),
        "STEP": str(step.strides[1]),
        "EVERY": str(every),
        "ROW_STEP": str(step.strides[0]),
        "TOP": str(step.pads[0]),
    }
    numbers = (across, every, *step.strides, *step.dilations, *step.pads[:2], height, width)
    name, top = instance(
        "pd_depthwise_masked_" + "_".join(map(str, numbers)), "depthwise_masked.h", settings, step
    )
    layer = _record(step, context, geometry(step, Schedule("rows", 1, 1, 1)))
    call = f"{_arguments(step, context)}, columns, {width}, {every}, {name}"
    body = (
        f"static const int columns[] = {{{listed}}};\n"
        f"static const pd_conv layer = {layer};\n"
        f"pd_depthwise_masked_run(w, &layer, {call});"
    )
    scratch = -(-row_size(step) // 16) * width
    return _code(body, top, scratch, "depthwise in place")


def _arguments(step: Conv, context: Context) -> str:
    weights = context.constant(step.weight.reshape(len(step.weight), -1).astype(np.float32))
    taps = step.weight[0].size
    outputs = len(step.weight) // step.groups
    return f"{context.pointers(step.x, step.y, step.residual)}, {weights}, {taps}, {outputs}"


def _loads(taps: list[int], pitch: int) -> dict[str, list[tuple[int, int]]]:
    """The offsets that the windows of ``TALL`` rows load, and the (row, tap) that each is for."""
    uses: dict[int, list[tuple[int, int]]] = {}
    for row in range(TALL):
        for tap, offset in enumerate(taps):
            uses.setdefault(offset + row * pitch, []).append((row, tap))
    return {str(offset): uses[offset] for offset in sorted(uses)}


def _windows(step: Conv) -> dict[str, list[tuple[int, int]]]:
    """The same as rows below the first one's window, and columns of it."""
    height, width = step.weight.shape[2:]
    uses: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row in range(TALL):
        for tap in range(height * width):
            down, across = divmod(tap, width)
            below = row * step.strides[0] + down * step.dilations[0]
            uses.setdefault((below, across), []).append((row, tap))
    return {f"{below}, {across}": uses[below, across] for below, across in sorted(uses)}


def _body(uses: dict[str, list[tuple[int, int]]]) -> str:
    """Everything loaded once, and added to all accumulators that it is in."""
    return " ".join(
        f"PD_LOAD({offset}) " + " ".join(f"PD_ADD({row}, {tap})" for row, tap in taps)
        for offset, taps in uses.items()
    )


def _layout(step: Conv) -> Geometry:
    """As many rows of one channel as the cache holds, or the whole height."""
    height = step.y.shape[2]
    tile_width_x8 = -(-row_size(step) // 16) * 2
    rows = height
    while True:
        layout = geometry(step, Schedule("rows", rows, tile_width_x8, 1))
        if layout.channel * 4 <= BAND or rows <= TALL:
            return layout
        rows = max(TALL, -(-(rows // 2) // TALL) * TALL)


def _record(step: Conv, context: Context, layout: Geometry) -> str:
    images, _, height, width = step.x.shape
    block = inside(step)
    low, high = bounds(step)
    fields = {
        "rows": len(step.weight),
        "tile": layout.tile,
        "columns": layout.columns,
        "images": images // block,
        "block": block,
        "height": height,
        "width": width * block,
        "out_height": step.y.shape[2],
        "out_width": row_size(step),
        "row_step": step.strides[0],
        "column_step": step.strides[1],
        "phases": len(layout.phases),
        "x_stride": step.x.strides[1],
        "y_stride": step.y.strides[1],
        "residual_stride": 0 if step.residual is None else step.residual.strides[1],
        "phase": context.constants.add(phases(layout.phases)),
        "bias": context.constants.add(step.bias.astype(np.float32)),
        "low": low,
        "high": high,
    }
    return record(fields)


def _code(body: str, top: str, scratch: int, choice: str) -> Code:
    """The step's code, its scratch in whole cache lines."""
    lines = -(-scratch // 16) * 16
    return Code(body, (top,), HEADERS, lines, choice, kernel="depthwise")
