"""Layers by minimal filtering in both directions: weights, an instance of the kernel, the call."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.codegen._activation import bounds, instance
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.kernels.kernel import Kernel
from prunedeploy.runtimes.sparse.kernels.winograd_2d import (
    STRIP,
    across,
    blocks,
    channels,
    down,
    point,
    size,
    tiles,
)
from prunedeploy.runtimes.sparse.plan.steps import UNIT, Conv
from prunedeploy.runtimes.sparse.schedule.schedule import EIGHT, Tiling, inside


def emit(step: Conv, context: Context, tiling: Tiling, kernel: Kernel) -> Code:
    """The C of ``step`` with the schedule ``tiling``, which is one of ``kernel``."""
    settings = {
        "OUTPUTS": tiling.pieces,
        "SIZE": size(step, tiling.pieces),
        "ROWS": tiling.rows,
        "TILE_WIDTH_X8": tiling.eighths,
    }
    name = "_".join(["pd", tiling.kernel, *map(str, settings.values())])
    function, top = instance(name, kernel.header, settings, step)
    residual = "0" if step.residual is None else context.pointer(step.residual)
    sizes = _scratch(step, tiling)
    body = (
        f"static const pd_tiles layer = {_record(step, context, tiling, sizes)};\n"
        f"pd_tiles_run(w, &layer, {context.pointer(step.x)}, {context.pointer(step.y)}, "
        f"{residual}, {tiling.rows}, {function});"
    )
    needed = kernel.cycles(step, tiling, context.scope)
    headers = ("tiles.h", "functions.h")
    return Code(body, (top,), headers, sum(sizes), kernel.describe(tiling), needed)


def _scratch(step: Conv, tiling: Tiling) -> tuple[int, int, int, int]:
    """Floats of the transformed input, the products of a block, the patches, a row's pixels."""
    lanes, points = tiling.eighths * EIGHT, size(step, tiling.pieces) ** 2
    sizes = (
        points * point(step, tiling),
        points * tiling.rows * lanes,
        points * (lanes + STRIP) + STRIP,
        tiling.pieces**2 * lanes + UNIT,
    )
    a, b, c, d = (-(-each // UNIT) * UNIT for each in sizes)
    return a, b, c, d


def _record(step: Conv, context: Context, tiling: Tiling, sizes: tuple[int, int, int, int]) -> str:
    outputs, beside = tiling.pieces, inside(step)
    weights = blocks(step, tiling)
    places = np.cumsum(sizes)
    low, high = bounds(step)
    fields = {
        "rows": len(step.weight),
        "inputs": step.x.shape[1],
        "channels": channels(step),
        "step": step.strides[0],
        "outputs": outputs,
        "size": size(step, outputs),
        "groups": tiling.groups,
        "blocks": len(weights),
        "lanes": tiling.eighths * EIGHT,
        "tiles": tiles(step, outputs) // beside,
        "down": down(step, outputs),
        "across": across(step, outputs),
        "beside": beside,
        "height": step.x.shape[2],
        "width": step.x.shape[3],
        "out_height": step.y.shape[2],
        "out_width": step.y.shape[3],
        "top": step.pads[0],
        "left": step.pads[1],
        "x_stride": step.x.strides[1],
        "y_stride": step.y.strides[1],
        "residual_stride": 0 if step.residual is None else step.residual.strides[1],
        "weight": context.constants.add(weights),
        "block": weights[0].size,
        "bias": context.constants.add(step.bias.astype(np.float32)),
        "point": point(step, tiling),
        "products": places[0],
        "patch": places[1],
        "pixels": places[2],
        "low": low,
        "high": high,
    }
    return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"
