"""Which layers a GPU computes faster with scattered zeros left out, and which as dense ones.

Both sides are floors: the sparse layer's of ``runtimes/sparse/gpu/cost.py``; the dense one's are
its multiply-adds at the peak of the precision that TensorRT would take, its bytes, and a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy.prediction.gpu import LIMITS
from prunedeploy.prediction.record import Limit
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.sparse.gpu.build import plans_of
from prunedeploy.runtimes.sparse.gpu.cost import DRAM, RESIDENT, floors
from prunedeploy.runtimes.sparse.gpu.schedule import priced
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS

WIDTHS = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class LayerChoice:
    """A layer with weights, in seconds as a sparse and as a dense one.

    Args:
        name: of the step.
        density: the share of its weights that are left.
        sparse: seconds in float32, zeros left out.
        limit: what the sparse one waits for.
        dense: seconds in ``precision``.
        precision: the fastest of float32 and float16 that the target has.
    """

    name: str
    density: float
    sparse: float
    limit: Limit
    dense: float
    precision: str

    @property
    def is_sparse(self) -> bool:
        """Whether the sparse one is predicted to be faster."""
        return self.sparse < self.dense


def layer_choices(model: Path, target: Target, batch: int) -> tuple[LayerChoice, ...]:
    """The choice for each layer with weights.

    Raises:
        UserError: the model cannot be lowered, or nothing is known of the target's GPU.
    """
    (plan,), *_ = plans_of(model, target, BuildOptions(batches=(batch,) * (batch > 1)))
    steps = (step for step in plan.steps if isinstance(step, Conv) and step.y.size)
    return tuple(_choice(step, target) for step in steps)


def _choice(step: Conv, target: Target) -> LayerChoice:
    launch = priced(step, GPUS[target.name], target)
    highest = floors(launch.cost, launch.blocks, GPUS[target.name], target)
    dense = {name: _dense(step, target, name) for name in _precisions(target)}
    fastest = min(dense, key=lambda name: dense[name])
    return LayerChoice(
        name=step.name,
        density=int(np.count_nonzero(step.weight)) / max(step.weight.size, 1),
        sparse=highest.seconds,
        limit=LIMITS[highest.limit],
        dense=dense[fastest],
        precision=fastest,
    )


def _precisions(target: Target) -> list[str]:
    known = target.toolchain.precisions if target.toolchain is not None else ("float32",)
    return [name for name in WIDTHS if name in known and target.peak(name)] or ["float32"]


def _dense(step: Conv, target: Target, precision: str) -> float:
    pixels = step.y.size // step.y.shape[1]
    width = WIDTHS[precision]
    touched = width * (step.x.size + step.y.size)
    moved = width * step.weight.size + (touched if touched > RESIDENT * target.cache_bytes else 0)
    computed = 2 * step.weight.size * pixels / target.peak(precision)
    work = max(computed, moved / (DRAM * target.bytes_per_second))
    return work + GPUS[target.name].launch


def sentence(choices: Sequence[LayerChoice]) -> str:
    """How many layers zeros pay for, and why not for the others, in one sentence."""
    if not choices:
        return "no layer has weights"
    fast = [each for each in choices if each.is_sparse]
    slow = [each for each in choices if not each.is_sparse]
    precision = choices[0].precision
    totals = (sum(x.sparse for x in choices), sum(x.dense for x in choices))
    text = (
        f"{len(fast)} of {len(choices)} layers are predicted to be faster with their zeros left "
        f"out than dense in {precision}; all together {1e3 * totals[0]:.3g} ms against "
        f"{1e3 * totals[1]:.3g} ms"
    )
    if slow:
        limits = [each.limit for each in slow]
        commonest = max(sorted(set(limits)), key=limits.count)
        text += f"; what the others wait for is mostly {WORDS.get(commonest, commonest)}"
    return text


WORDS: dict[Limit, str] = {
    "fma": "multiply-adds",
    "issue": "the issue of instructions",
    "L1": "loads from L1",
    "code": "code, 16 bytes a non-zero",
    "DRAM": "memory",
    "latency": "the longest thread",
    "launch": "their launch",
}
