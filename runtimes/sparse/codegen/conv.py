"""Convolutions and linear layers: which of the emitters writes them."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen import depthwise, narrow, tiled
from prunedeploy.runtimes.sparse.codegen import winograd_2d as winograd2d
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Tiling

KERNELS = (*tiled.STREAMS, "winograd2d")


def emit(step: Conv, context: Context) -> Code:
    """The kernel that suits ``step``, cut as the tuner or the model of the machine says."""
    if not step.y.size:
        return Code("")
    if narrow.suits(step):
        return narrow.emit(step, context)
    if depthwise.suits(step):
        return depthwise.emit(step, context)
    tiling = context.tuned.get(step.name) or choose.tiling(step, context.isa, context.threads)
    return cut(step, context, tiling)


def cut(step: Conv, context: Context, tiling: Tiling) -> Code:
    """``step`` cut as ``tiling`` says."""
    if tiling.kernel == "winograd2d":
        return winograd2d.emit(step, context, tiling)
    return tiled.emit(step, context, tiling)
