"""Time from work: what bounds each layer, and a fixed price of every one."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.prediction.efficiency import Table
from prunedeploy.prediction.machine import Machine
from prunedeploy.prediction.record import LayerTime, Limit, Work


def layer_times(works: Sequence[Work], machine: Machine, table: Table) -> tuple[LayerTime, ...]:
    """Every layer of one run, in order; the weights of all together have to fit the cache."""
    resident = sum(work.weights for work in works) <= machine.cache
    return tuple(layer_time(work, machine, table, resident) for work in works)


def layer_time(work: Work, machine: Machine, table: Table, resident: bool) -> LayerTime:
    """The longer of computing and moving, and the overhead; see ``Efficiency``."""
    efficiency = table.kernels[work.kernel]
    computed = _computed(work, machine, efficiency.compute)
    near = efficiency.near * machine.bandwidth
    far = table.far * machine.bandwidth
    weights = work.weights / (near if resident else min(near, far))
    moved = work.moved / (near if work.moved <= machine.cache else min(near, far))
    spent = max(computed, weights + moved)
    overhead = table.overhead + table.sync * (machine.threads - 1)
    limit: Limit = "overhead"
    if spent > overhead:
        limit = "compute" if computed >= weights + moved else "memory"
    read = work.weights + work.moved
    return LayerTime(work.name, work.kernel, work.flops, read, spent + overhead, limit)


def _computed(work: Work, machine: Machine, efficiency: float) -> float:
    if work.cycles and machine.cycle:
        return work.cycles * machine.cycle / efficiency
    return work.flops / (efficiency * machine.peak)
