"""Layers by Winograd F(m x m, r x r): weights, an instance of the kernel, the call."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.codegen._activation import bounds, instance
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import record
from prunedeploy.runtimes.sparse.kernels import winograd_2d as winograd
from prunedeploy.runtimes.sparse.kernels.kernel import Kernel
from prunedeploy.runtimes.sparse.kernels.winograd_2d import blocks
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule.schedule import EIGHT, Schedule, inside


def emit(step: Conv, context: Context, schedule: Schedule, kernel: Kernel) -> Code:
    """The C of ``step`` with the schedule ``schedule``, which is one of ``kernel``."""
    settings = {
        "OUTPUTS": schedule.tile_rows,
        "SIZE": winograd.size(step, schedule.tile_rows),
        "ROWS": schedule.rows,
        "TILE_WIDTH_X8": schedule.tile_width_x8,
    }
    name = "_".join(["pd", schedule.kernel, *map(str, settings.values())])
    function, top = instance(name, kernel.header, settings, step)
    sizes = _scratch(step, schedule)
    body = (
        f"static const pd_tiles layer = {_record(step, context, schedule, sizes)};\n"
        f"pd_tiles_run(w, &layer, {context.pointers(step.x, step.y, step.residual)}, "
        f"{schedule.rows}, {function});"
    )
    needed = kernel.cycles(step, schedule, context.scope)
    headers = ("tiles.h", "functions.h")
    return Code(body, (top,), headers, sum(sizes), kernel.describe(schedule), needed, kernel.name)


def _scratch(step: Conv, schedule: Schedule) -> tuple[int, int, int, int]:
    """Floats of the transformed input, the products of a block, the patches, a row's pixels."""
    lanes, points = schedule.tile_width_x8 * EIGHT, winograd.size(step, schedule.tile_rows) ** 2
    sizes = (
        points * winograd.point(step, schedule),
        points * schedule.rows * lanes,
        points * (lanes + winograd.STRIP) + winograd.STRIP,
        schedule.tile_rows**2 * lanes + UNIT,
    )
    a, b, c, d = (-(-each // UNIT) * UNIT for each in sizes)
    return a, b, c, d


def _record(
    step: Conv, context: Context, schedule: Schedule, sizes: tuple[int, int, int, int]
) -> str:
    outputs, innermost = schedule.tile_rows, inside(step)
    weights = blocks(step, schedule)
    offsets = np.cumsum(sizes)
    low, high = bounds(step)
    fields = {
        "rows": len(step.weight),
        "inputs": step.x.shape[1],
        "channels": winograd.channels(step),
        "step": step.strides[0],
        "outputs": outputs,
        "size": winograd.size(step, outputs),
        "groups": schedule.groups,
        "blocks": len(weights),
        "lanes": schedule.tile_width_x8 * EIGHT,
        "tiles": winograd.tiles(step, outputs) // innermost,
        "down": winograd.down(step, outputs),
        "across": winograd.across(step, outputs),
        "batch_innermost": innermost,
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
        "point": winograd.point(step, schedule),
        "products": offsets[0],
        "patch": offsets[1],
        "pixels": offsets[2],
        "low": low,
        "high": high,
    }
    return record(fields)
