"""Convolutions of which every output channel reads one input channel."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.emit._activation import act, bounds
from prunedeploy.runtimes.sparse.emit._context import Code, Context
from prunedeploy.runtimes.sparse.emit.tiled import phases
from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.tiling import Geometry, Tiling, geometry, is_flat

MOST_TAPS = 49  # unrolled in the kernel: 7 x 7
TALL = 4  # rows of pixels computed at once, PD_TALL in C
BAND = 24 * 1024  # bytes of a packed channel, to stay in the first-level cache


def suits(step: Conv) -> bool:
    """Whether ``step`` is such a layer, of a window that is worth unrolling."""
    _, width, height, across = step.weight.shape
    return width == 1 and step.groups > 1 and height * across <= MOST_TAPS and not is_flat(step)


def emit(step: Conv, context: Context) -> Code:
    """One instance of the kernel for each kind of window and width."""
    layout = _layout(step)
    taps = [place for row in layout.taps for place in row]
    name = f"pd_depthwise_{layout.pitch}_" + "_".join(map(str, taps))
    function = act(step)
    name += f"_{step.activation.op}" if function else ""
    top = [
        f"#define PD_NAME {name}",
        f"#define PD_COUNT {len(taps)}",
        f"#define PD_BODY {_body(taps, layout.pitch)}",
        f"#define PD_PITCH {layout.pitch}",
        *([f"#define PD_ACT(v) {function}"] if function else []),
        '#include "depthwise.h"',
    ]
    residual = "0" if step.residual is None else context.pointer(step.residual)
    weights = context.constant(step.weight.reshape(len(step.weight), -1).astype(np.float32))
    body = (
        f"static const pd_conv layer = {_record(step, context, layout)};\n"
        f"pd_depthwise_run(w, &layer, {context.pointer(step.x)}, {context.pointer(step.y)}, "
        f"{residual}, {weights}, {len(taps)}, {len(step.weight) // step.groups}, {name});"
    )
    scratch = layout.channel + TALL * layout.pitch + 64
    return Code(body, ("\n".join(top),), ("conv.h", "functions.h"), -(-scratch // 16) * 16)


def _body(taps: list[int], pitch: int) -> str:
    """Every place of ``TALL`` rows' windows loaded once, and added to all sums that it is in."""
    uses: dict[int, list[str]] = {}
    for row in range(TALL):
        for tap, place in enumerate(taps):
            uses.setdefault(place + row * pitch, []).append(f"PD_ADD({row}, {tap})")
    return " ".join(f"PD_LOAD({place}) {' '.join(uses[place])}" for place in sorted(uses))


def _layout(step: Conv) -> Geometry:
    """As many rows of one channel as the cache holds, or the whole height."""
    height, width = step.y.shape[2:]
    eighths = -(-width // 16) * 2
    rows = height
    while True:
        layout = geometry(step, Tiling("rows", rows, eighths, 1))
        if layout.channel * 4 <= BAND or rows <= TALL:
            return layout
        rows = max(TALL, -(-(rows // 2) // TALL) * TALL)


def _record(step: Conv, context: Context, layout: Geometry) -> str:
    images, _, height, width = step.x.shape
    low, high = bounds(step)
    fields = {
        "rows": len(step.weight),
        "tile": layout.tile,
        "columns": layout.columns,
        "images": images,
        "height": height,
        "width": width,
        "out_height": step.y.shape[2],
        "out_width": step.y.shape[3],
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
    return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"
