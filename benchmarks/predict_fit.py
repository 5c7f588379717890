"""From layers with their times to the table of efficiencies of a runtime.

Each class of kernels gets the ``compute`` and ``near`` with the least squares of the error, in
shares of the time of the run that the layer is part of; ``far`` is common to all. The fixed prices
of a layer, of a further thread and of a run then come from the runs without a profiler, which has
fixed prices of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from predict_profiles import Layer, Run

from prunedeploy import targets
from prunedeploy.prediction.efficiency import Efficiency, Table
from prunedeploy.prediction.machine import Machine, machine

COMPUTE, NEAR = np.geomspace(0.02, 1.6, 60), np.geomspace(0.1, 8.0, 36)
FAR = (0.45, 0.6, 0.75, 0.9)
PROFILED = {"ort": 5e-6, "sparse": 1e-6}  # seconds a layer while a profiler watches

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Class:
    """All layers of one class: seconds of computing and of moving at the whole limit."""

    computed: Floats
    near: Floats
    far: Floats
    seconds: Floats
    share: Floats  # of the run, of one second

    def predicted(self, compute: float, near: float, far: float) -> Floats:
        return np.maximum(self.computed / compute, self.near / near + self.far / min(near, far))


def fit(runs: Sequence[Run], source: str) -> Table:
    """The table of the runtime that all ``runs`` are of."""
    (runtime,) = {run.runtime for run in runs}
    classes = _classes(runs, runtime)
    fixed = PROFILED[runtime]
    best: tuple[float, float, dict[str, Efficiency]] | None = None
    for far in FAR:
        fits = {name: _fit(each, far, fixed) for name, each in classes.items()}
        error = sum(each for each, _ in fits.values())
        if best is None or error < best[0]:
            best = (error, far, {name: row for name, (_, row) in fits.items()})
    assert best is not None
    _, far, kernels = best
    overhead, sync, start = _fixed(runs, kernels, far)
    return Table(dict(sorted(kernels.items())), far, overhead, sync, start, source)


def _classes(runs: Sequence[Run], runtime: str) -> dict[str, _Class]:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        limits = machine(targets.by_name("host"), runtime, "float32", run.threads)
        resident = _resident(run, limits)
        for layer in run.layers:
            rows.setdefault(layer.work.kernel, []).append(
                (*_limits(layer, limits, resident), layer.seconds, 1 / run.seconds)
            )
    return {name: _Class(*np.array(samples, np.float64).T) for name, samples in rows.items()}


def _resident(run: Run, limits: Machine) -> bool:
    return sum(layer.work.weights for layer in run.layers) <= limits.cache


def _limits(layer: Layer, limits: Machine, resident: bool) -> tuple[float, float, float]:
    """Seconds at the whole of each limit; see prediction/roofline.py."""
    work = layer.work
    computed = work.cycles * limits.cycle if work.cycles else work.flops / limits.peak
    near = work.weights * resident + work.moved * (work.moved <= limits.cache)
    far = work.weights + work.moved - near
    return computed, near / limits.bandwidth, far / limits.bandwidth


def _fit(each: _Class, far: float, fixed: float) -> tuple[float, Efficiency]:
    """The least error, and what has it; of what makes no difference the most cautious."""
    best = (np.inf, Efficiency(1.0, 1.0))
    for compute in COMPUTE[::-1]:
        for near in NEAR[::-1]:
            off = (each.predicted(compute, near, far) + fixed - each.seconds) * each.share
            error = float(off @ off)
            if error < best[0] * (1 - 1e-6):
                best = (error, Efficiency(round(float(compute), 3), round(float(near), 2)))
    return best


def _fixed(
    runs: Sequence[Run], kernels: dict[str, Efficiency], far: float
) -> tuple[float, float, float]:
    """Overhead, sync and start by least squares over whole runs; none is negative."""
    rows, rest = [], []
    for run in runs:
        limits = machine(targets.by_name("host"), run.runtime, "float32", run.threads)
        resident, spent = _resident(run, limits), 0.0
        for layer in run.layers:
            row = kernels[layer.work.kernel]
            computed, near, beyond = _limits(layer, limits, resident)
            spent += max(computed / row.compute, near / row.near + beyond / min(row.near, far))
        count = len(run.layers)
        rows.append(np.array([count, count * (run.threads - 1), 1.0]) / run.seconds)
        rest.append((run.seconds - spent) / run.seconds)
    solution = _nonnegative(np.array(rows), np.array(rest))
    return round(float(solution[0]), 8), round(float(solution[1]), 8), round(float(solution[2]), 7)


def _nonnegative(matrix: Floats, wanted: Floats) -> Floats:
    """Least squares over the columns that come out positive; the worst goes first."""
    columns = list(range(matrix.shape[1]))
    while columns:
        solution = np.linalg.lstsq(matrix[:, columns], wanted, rcond=None)[0]
        if (solution >= 0).all():
            break
        columns.remove(columns[int(solution.argmin())])
    result = np.zeros(matrix.shape[1])
    if columns:
        result[columns] = solution
    return result


def text(name: str, table: Table) -> str:
    """The table as it stands in prediction/efficiency.py."""
    rows = "".join(
        f'        "{kernel}": Efficiency({row.compute}, {row.near}),\n'
        for kernel, row in table.kernels.items()
    )
    fixed = f"far={table.far}, overhead={table.overhead}, sync={table.sync}, start={table.start}"
    return f"{name} = Table(\n    {{\n{rows}    }},\n    {fixed},\n    source=FITTED,\n)"
