"""The candidates for a layer's schedule, from its shape and a simple model of the machine.

``cost`` ranks them; ``tune`` measures the best few where the machine is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels import mixed, shapes
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.cost import cycles
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule


def schedule(step: Conv, isa: str, threads: int = 2, blocks: BlockCache | None = None) -> Schedule:
    """The best by the model."""
    return ranked(step, isa, threads, blocks)[0]


def ranked(
    step: Conv, isa: str, threads: int = 2, blocks: BlockCache | None = None
) -> list[Schedule]:
    """Every candidate, the best by the model first.

    Raises:
        UserError: there is none, for the window reaches further than an offset can say.
    """
    blocks = blocks or BlockCache()
    schedules = list(candidates(step, isa, threads, blocks))
    if not schedules:
        raise UserError(
            f"the sparse runtime cannot compute Conv ({step.name}): "
            "its window reaches too far: use --runtime ort"
        )
    return sorted(schedules, key=lambda schedule: cycles(step, schedule, isa, threads, blocks))


def candidates(
    step: Conv, isa: str, threads: int, blocks: BlockCache | None = None
) -> Iterator[Schedule]:
    """All schedules that are worth a thought; for very large windows, all that there are."""
    scope = Scope(ISAS[isa], threads, blocks or BlockCache())
    choices = {kernel: dict.fromkeys(kernel.candidates(step, scope)) for kernel in KERNELS.values()}
    usual = any(schedules for kernel, schedules in choices.items() if kernel.offsets_16_bits)
    for kernel, schedules in choices.items():
        yield from schedules if usual else schedules or kernel.fallback(step, scope)


def fill(step: Conv, isa: str, blocks: BlockCache | None = None) -> float:
    """The cost of a cell of a block in scattered non-zeros (see ``mixed.cell_cost``)."""
    return mixed.cell_cost(step, Scope(ISAS[isa], 1, blocks or BlockCache()))


def longest(step: Conv, schedule: Schedule) -> float:
    """Terms of a row's sum within a panel, on average; 0 where panels do not limit them."""
    return schedule.channels * shapes.terms(step) if KERNELS[schedule.kernel].max_terms else 0.0
