"""Time from what a launch does: the floors of a GPU, and which one is the highest.

Nothing of it was measured. A launch cannot end before its multiply-adds are computed, its
instructions issued, its loads served from L1, its code fetched, its tensors moved from memory and
its longest thread through; the prediction is the highest of these, and the gap to the next launch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from prunedeploy.runtimes.sparse.gpu.launch import Cost
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import Gpu

WARP = 32
SCHEDULERS = 4  # of an SM; each issues one instruction of a warp in a cycle
CYCLES = 4  # between two dependent instructions of one thread
STALL = 300  # cycles that a thread waits for loads from L2
DRAM = 0.75  # of the peak that kernels reach
RESIDENT = 0.7  # of the L2 cache that a launch's tensors may take and stay there


@dataclass(frozen=True)
class Floors:
    """Seconds that a launch takes at least, for each reason."""

    fma: float
    issue: float
    l1: float
    code: float
    dram: float
    latency: float
    launch: float

    @property
    def limit(self) -> str:
        """The reason of the highest floor."""
        names = [each.name for each in fields(self)]
        return max(names, key=lambda name: float(getattr(self, name)))

    @property
    def seconds(self) -> float:
        """The highest floor, and the gap between launches."""
        work = (self.fma, self.issue, self.l1, self.code, self.dram, self.latency)
        return max(work) + self.launch


def floors(cost: Cost, blocks: int, gpu: Gpu, target: Target) -> Floors:
    """The floors of a launch of ``blocks`` blocks on ``gpu``, which is ``target``'s."""
    waves = -(-blocks // gpu.sms)
    busy = blocks / waves  # SMs that have work, on average over the waves
    clock = busy * gpu.hz(target)
    far = cost.moved > RESIDENT * target.cache_bytes
    moved = cost.code * gpu.code + (cost.moved if far else 0)
    return Floors(
        fma=cost.fma / (WARP * gpu.fma * clock),
        issue=cost.instructions / (WARP * SCHEDULERS * clock),
        l1=cost.l1 / (gpu.l1 * clock),
        code=cost.fetched * gpu.code / (gpu.fetch * clock),
        dram=moved / (DRAM * target.bytes_per_second),
        latency=(cost.longest * CYCLES + cost.waits * STALL) / gpu.hz(target),
        launch=gpu.launch,
    )
