"""Convolutions and linear layers: streams among the constants, a kernel, and the call."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse import choose, depthwise, narrow
from prunedeploy.runtimes.sparse.emit._context import Code, Context
from prunedeploy.runtimes.sparse.plan import Conv
from prunedeploy.runtimes.sparse.streams import Part, Streams, dense_streams, streams
from prunedeploy.runtimes.sparse.tiling import Geometry, Tiling, geometry, is_flat, pixels

CLAMPS = {"identity", "relu", "clip"}  # activations that are two bounds
SHIFT = {1: 0, 16: 4}  # log2 of what offsets count in


def emit(step: Conv, context: Context) -> Code:
    """The kernel that suits ``step``."""
    if narrow.suits(step):
        return narrow.emit(step, context)
    if depthwise.suits(step):
        return depthwise.emit(step, context)
    tiling = context.tuned.get(step.name) or choose.tiling(step, context.isa)
    return emit_tiled(step, context, tiling)


def emit_tiled(step: Conv, context: Context, tiling: Tiling) -> Code:
    """``step`` cut as ``tiling`` says."""
    layout = geometry(step, tiling)
    pack = dense_streams if tiling.kernel == "block" else streams
    packed = pack(step, tiling, layout)
    kernel, top = _kernel(step, tiling, layout)
    size = _panel_elements(tiling, layout, packed)
    residual = "0" if step.residual is None else context.pointer(step.residual)
    body = (
        f"static const pd_conv layer = {_record(step, context, tiling, layout, packed)};\n"
        f"pd_conv_run(w, &layer, {context.pointer(step.x)}, {context.pointer(step.y)}, {residual}, "
        f"{kernel}, {size});"
    )
    sums = packed.rows_of_group * tiling.groups * tiling.pieces * tiling.eighths * 8
    return Code(body, (top,), ("conv.h", "math.h"), size + (sums if len(packed.panels) > 1 else 0))


def bounds(step: Conv) -> tuple[str, str]:
    """The activation's lower and upper bound in C; infinite where it has none."""
    infinity = "__builtin_inff()"
    match step.activation.op:
        case "relu":
            return "0", infinity
        case "clip":
            low, high = step.activation.numbers
            return literal(low), literal(high)
        case _:
            return f"-{infinity}", infinity


def literal(number: float) -> str:
    """``number`` in C, exactly."""
    if np.isinf(number):
        return "__builtin_inff()" if number > 0 else "-__builtin_inff()"
    return f"{float(np.float32(number)).hex()}f"


def act(step: Conv) -> str:
    """C expression for the activation of the vector ``v``, empty where bounds do."""
    if step.activation.op in CLAMPS:
        return ""
    from prunedeploy.runtimes.sparse.emit.functions import activation_call

    return activation_call(step.activation, "v")


def _kernel(step: Conv, tiling: Tiling, layout: Geometry) -> tuple[str, str]:
    """The name of the kernel's instance, and the text that makes it."""
    settings = {
        "PIECES": tiling.pieces,
        "EIGHTS": tiling.eighths,
        "PITCH": layout.pitch,
        "SHIFT": SHIFT[layout.unit],
    }
    if tiling.kernel == "block":
        settings = {"ROWS": tiling.rows, **settings}
    name = f"pd_{tiling.kernel}_" + "_".join(str(value) for value in settings.values())
    function = act(step)
    if function:
        numbers = "_".join(literal(x) for x in step.activation.numbers)
        name += f"_{step.activation.op}" + "".join(c if c.isalnum() else "_" for c in numbers)
    lines = [f"#define PD_NAME {name}"]
    lines += [f"#define PD_{key} {value}" for key, value in settings.items()]
    lines += [f"#define PD_ACT(v) {function}"] if function else []
    return name, "\n".join([*lines, f'#include "{tiling.kernel}.h"'])


def _panel_elements(tiling: Tiling, layout: Geometry, packed: Streams) -> int:
    """Scratch of a packed panel, with what the last vectors read behind it."""
    if layout.flat and not tiling.packed:
        return 0
    widest = max(end - begin for begin, end in packed.panels)
    return -(-(widest * layout.channel + tiling.eighths * 8 + 16) // 16) * 16


def _record(step: Conv, context: Context, tiling: Tiling, layout: Geometry, packed: Streams) -> str:
    store = context.constants.add
    images, _, height, width = step.x.shape
    phases = np.array(
        [
            (f.row, f.row_step, f.rows, f.column, f.column_step, f.width, f.place)
            for f in layout.phases
        ]
        or [(0,) * 7],
        np.int32,
    )
    parts = [_part(part, context) for group in packed.parts for part in group]
    low, high = bounds(step)
    fields = {
        "rows": step.weight.shape[0],
        "tiles": layout.tiles,
        "groups": tiling.groups,
        "panels": len(packed.panels),
        "pixels": pixels(step),
        "tile": layout.tile,
        "images": images,
        "height": height,
        "width": width,
        "out_height": step.y.shape[2],
        "out_width": step.y.shape[3],
        "row_step": step.strides[0],
        "packed": int(tiling.packed or not layout.flat),
        "channel": layout.channel,
        "phases": len(layout.phases),
        "x_stride": step.x.strides[1],
        "y_stride": step.y.strides[1],
        "residual_stride": 0 if step.residual is None else step.residual.strides[1],
        "phase": store(phases),
        "panel": store(np.array(packed.panels, np.int32)),
        "part": store(np.array(parts, PART)),
        "bias": store(step.bias.astype(np.float32)),
        "low": low,
        "high": high,
    }
    return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"


PART = np.dtype(
    [
        ("visits", "<u4"),
        ("first", "<u4"),
        ("visit", "<u8"),
        ("offset", "<u8"),
        ("weight", "<u8"),
    ]
)


def _part(part: Part, context: Context) -> tuple[int, ...]:
    store = context.constants.add
    return (
        len(part.visits),
        part.first,
        store(part.visits),
        store(part.offsets),
        store(part.weights),
    )


__all__ = ["emit", "emit_tiled", "is_flat"]
