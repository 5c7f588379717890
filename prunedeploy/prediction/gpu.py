"""Predicts sparse engines on GPUs: for each launch the highest of its floors.

Nothing of it was measured; see ``runtimes/sparse/gpu/cost.py`` for the floors.
"""

from __future__ import annotations

from pathlib import Path

from prunedeploy.core.measurements import Forecast
from prunedeploy.prediction.efficiency import ANY_GPU
from prunedeploy.prediction.record import LayerTime, Limit
from prunedeploy.runtimes.sparse.gpu.build import priced
from prunedeploy.runtimes.sparse.gpu.cost import Floors, floors
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS

BASIS = (
    "floors of multiply-adds, issue, L1, code, DRAM, latency and launches: "
    "no GPU was measured, real ones are slower"
)
LIMITS: dict[str, Limit] = {
    "fma": "fma",
    "issue": "issue",
    "l1": "L1",
    "code": "code",
    "dram": "DRAM",
    "latency": "latency",
    "launch": "launch",
}


def layer_times(model: Path, target: Target, batch: int) -> tuple[LayerTime, ...]:
    """The time of every launch of the engine that would be built.

    Raises:
        UserError: no kernel computes the model, or nothing is known of the target's GPU.
    """
    times = []
    for launch in priced(model, target, batch):
        highest: Floors = floors(launch.cost, launch.blocks, GPUS[target.name], target)
        cost, limit = launch.cost, LIMITS[highest.limit]
        times.append(
            LayerTime(launch.step, launch.kind, 2 * cost.fma, cost.moved, highest.seconds, limit)
        )
    return tuple(times)


def forecast(times: tuple[LayerTime, ...], runtime: str, batch: int) -> Forecast:
    """The sum of all launches; it is a floor, so that the band goes upwards alone."""
    seconds = sum(layer.seconds for layer in times)
    return Forecast(runtime, "float32", batch, 1, seconds, seconds, seconds * ANY_GPU)
