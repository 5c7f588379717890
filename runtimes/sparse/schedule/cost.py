"""The cost of a schedule by the cost model; the kernels have its parts."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule


def cycles(
    step: Conv, schedule: Schedule, isa: str, threads: int, blocks: BlockCache | None = None
) -> float:
    """The cycles that the busiest thread of ``threads`` needs."""
    scope = Scope(ISAS[isa], threads, blocks or BlockCache())
    return KERNELS[schedule.kernel].cycles(step, schedule, scope)
