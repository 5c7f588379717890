"""Convolutions and linear layers: which of the kernels computes them."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.kernels.table import KERNELS, special
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule


def emit(step: Conv, context: Context) -> Code:
    """The kernel for ``step``, with the schedule that the tuner or the cost model has chosen."""
    if (kernel := special(step)) is not None:
        return kernel.emit(step, context)
    schedule = context.tuned.get(step.name) or choose.schedule(
        step, context.isa, context.threads, context.blocks
    )
    return emit_with(step, context, schedule)


def emit_with(step: Conv, context: Context, schedule: Schedule) -> Code:
    """``step`` with the schedule ``schedule``."""
    kernel = KERNELS[schedule.kernel]
    return kernel.emit(step, context, schedule, kernel)
