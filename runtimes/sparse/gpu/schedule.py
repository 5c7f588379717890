"""Chooses the kernel of a convolution, and how it is cut, by the model of cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu import depthwise, generated, looped, streamed
from prunedeploy.runtimes.sparse.gpu.cost import floors
from prunedeploy.runtimes.sparse.gpu.epilogue import instructions
from prunedeploy.runtimes.sparse.gpu.generated import IN_FLIGHT, PROLOGUE, WARP, Schedule
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel, Priced
from prunedeploy.runtimes.sparse.gpu.nonzeros import MAX_INSTRUCTIONS
from prunedeploy.runtimes.sparse.gpu.window import window_of
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import Gpu

SMALL = 20_000  # non-zeros whose code is small whatever their density
DENSE = 0.5  # density above which a loop over all weights is smaller and no slower
ROWS = (8, 16, 32, 64)
THREADS = (32, 64, 128, 256)
PARTS = (1, 2, 4, 8)
MAX_ACCUMULATORS = 256  # rows * parts: 32 KB of shared memory with 32 pixels


def emit(step: Conv, name: str, constants: Constants, gpu: Gpu, target: Target) -> Kernel:
    """The kernel of a convolution or linear layer."""
    if (emitter := _of_weights_in_memory(step)) is not None:
        return emitter(step, name, constants)
    return generated.emit(step, name, best(step, gpu, target))


def priced(step: Conv, gpu: Gpu, target: Target) -> Priced:
    """The launch of the same kernel by the model of cost, without its code."""
    if (emitter := _of_weights_in_memory(step)) is not None:
        return price_of(emitter(step, "priced", Constants()))
    chosen = best(step, gpu, target)
    cost, blocks = _Model(step).cost(chosen)
    return Priced(step.name, _generated_kind(chosen), str(chosen), cost, blocks)


def price_of(kernel: Kernel) -> Priced:
    """The launch of a kernel, without its code."""
    blocks = kernel.grid[0] * kernel.grid[1]
    return Priced(kernel.step, kernel.kind, kernel.choice, kernel.cost, blocks)


def _generated_kind(chosen: Schedule) -> str:
    return "split" if chosen.parts > 1 else "generated"


def _of_weights_in_memory(step: Conv) -> Callable[[Conv, str, Constants], Kernel] | None:
    """The emitter of a layer whose weights lie in memory; None where they go into the code."""
    if depthwise.fits(step):
        return depthwise.emit
    if streamed.fits(step):
        return streamed.emit
    nonzeros = int(np.count_nonzero(step.weight))
    return looped.emit if nonzeros > max(SMALL, DENSE * step.weight.size) else None


def candidates(step: Conv) -> list[Schedule]:
    """Every schedule of an generated layer that there is room for."""
    pixels, rows = window_of(step).pixels, step.weight.shape[0]
    warps = -(-pixels // WARP) * WARP
    smaller = [count for count in ROWS if count < 2 * rows] or [ROWS[0]]
    whole = [Schedule(r, t) for r in smaller for t in THREADS if t <= max(warps, THREADS[0])]
    cut = [Schedule(r, WARP, p) for r in smaller for p in PARTS[1:] if r * p <= MAX_ACCUMULATORS]
    return whole + cut


def best(step: Conv, gpu: Gpu, target: Target) -> Schedule:
    """The schedule of the shortest predicted time; of equal ones the first."""
    model = _Model(step)

    def seconds(schedule: Schedule) -> float:
        cost, blocks = model.cost(schedule)
        return floors(cost, blocks, gpu, target).seconds

    return min(candidates(step), key=seconds)


class _Model:
    """The cost of a layer's schedules, without their code."""

    def __init__(self, step: Conv) -> None:
        self._step = step
        self._window = window_of(step)
        self._used: Any = step.weight.reshape(step.weight.shape[0], -1) != 0
        self._nonzeros = int(np.count_nonzero(self._used))
        self._loads: dict[int, int] = {}

    def _channels(self, rows: int) -> int:
        """Input values that programs of ``rows`` rows read, all together."""
        if rows not in self._loads:
            begins = np.arange(0, len(self._used), rows)
            self._loads[rows] = int(np.logical_or.reduceat(self._used, begins, axis=0).sum())
        return self._loads[rows]

    def cost(self, schedule: Schedule) -> tuple[Cost, int]:
        """What a schedule costs, and its blocks."""
        rows, parts, pixels = len(self._used), schedule.parts, self._window.pixels
        loads, taps = self._channels(schedule.rows), len(self._window.taps())
        work = self._nonzeros + loads
        longest = MAX_INSTRUCTIONS * parts
        programs = max(-(-rows // schedule.rows), -(-work // longest))
        each = PROLOGUE + (0 if self._window.direct else 3 * taps)
        code = work + programs * parts * each + rows * instructions(self._step)
        if parts > 1:
            code += programs * schedule.rows * (2 * parts + parts)
        blocks = -(-pixels // schedule.threads)
        padded = -(-pixels // WARP) * WARP
        cost = Cost(
            fma=self._nonzeros * pixels,
            instructions=code * padded,
            l1=4 * (loads + rows) * padded,
            moved=4 * (self._step.x.size + self._step.y.size),
            code=code,
            longest=code // (programs * parts),
            fetched=code * blocks,
            waits=1 + loads // (programs * parts * IN_FLIGHT),
        )
        return cost, blocks * programs
