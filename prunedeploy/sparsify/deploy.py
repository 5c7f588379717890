"""From trained weights to engines on a target, and how fast they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.measurements import BenchResult, Measurement
from prunedeploy.core.records import Ratio, ShrinkResult
from prunedeploy.engines.building import build
from prunedeploy.engines.choice import ANY_BATCH
from prunedeploy.measure.bench import bench
from prunedeploy.prediction.predict import predict
from prunedeploy.remote.device import remote_bench
from prunedeploy.runtimes.api import Tuning
from prunedeploy.shrinking.pipeline import shrink
from prunedeploy.sparsify.recipe import Deploy, Recipe
from prunedeploy.sparsify.row import DENSE, Deployed, Latency

Progress = Callable[[str], None]


def deploy(
    recipe: Recipe, weights: Path, sample: Sequence[int], folder: Path, progress: Progress
) -> Deployed:
    """Shrink the weights, build what ``recipe.deploy`` names, and time or predict it.

    Args:
        recipe: with a ``deploy``.
        weights: a state_dict of the recipe's network.
        sample: the shape of one input.
        folder: for the shrunken model and the engines.
        progress: called with one line of text for each step.

    Raises:
        UserError: the network cannot be exported, or the device cannot be reached.
    """
    wanted = recipe.deploy
    assert wanted is not None
    folder.mkdir(parents=True, exist_ok=True)
    shrunk = shrink(
        weights,
        folder / "small.onnx",
        arch=recipe.network.name,
        input_shape=(1, *sample),
        align=1 if wanted.predict else "auto",  # which would measure
        target=wanted.target,
        progress=progress,
    )
    if wanted.predict:
        latencies, notes = _predicted(shrunk, wanted)
    elif targets.why_not_here(targets.by_name(wanted.target)) is None:
        latencies, notes = _measured(shrunk, wanted, folder, progress)
    elif wanted.remote:
        latencies, notes = _remote(shrunk, wanted, progress)
    else:
        latencies, notes = _predicted(shrunk, wanted)
    after = shrunk.after
    return Deployed(
        *(wanted.target, after.parameters, after.nonzero, after.macs),
        *(tuple(latencies), tuple(notes)),
    )


def _measured(
    shrunk: ShrinkResult, wanted: Deploy, folder: Path, progress: Progress
) -> tuple[list[Latency], list[str]]:
    """All runtimes in turn with the dense network in ONNX Runtime, at each batch."""
    engines: dict[str, Path] = {}
    notes = []
    for runtime in wanted.runtimes:
        path = folder / f"{runtime}.engine"
        try:
            build(
                *(shrunk.model, wanted.target, runtime, path, shrunk.dense, progress),
                batch=() if runtime in ANY_BATCH else wanted.batches,
                threads=wanted.threads,
                tune=cast(Tuning, wanted.tune),
            )
        except UserError as error:
            notes.append(f"no engine of {runtime}: {error}")
        else:
            engines[runtime] = path
    latencies: list[Latency] = []
    for batch in wanted.batches if engines else ():
        result = bench(
            [*engines.values()],
            shrunk.dense,
            batch=batch,
            threads=wanted.threads,
            rounds=wanted.rounds,
            progress=progress,
        )
        latencies += _latencies(result, [*engines])
    return latencies, notes


def _latencies(result: BenchResult, runtimes: Sequence[str]) -> list[Latency]:
    rows: list[tuple[str, Measurement, Ratio]] = [(DENSE, result.baseline, Ratio(1.0, 1.0, 1.0))]
    rows += zip(runtimes, result.candidates, result.ratios, strict=True)
    return [
        Latency(
            *(runtime, measured.batch, measured.threads),
            *(float(np.median(measured.samples_ns)) / 1e6, "measured", speed),
            measured.peak_memory_bytes,
        )
        for runtime, measured, speed in rows
    ]


def _remote(
    shrunk: ShrinkResult, wanted: Deploy, progress: Progress
) -> tuple[list[Latency], list[str]]:
    """All that a device bundle has, on the device that SSH reaches."""
    latencies: list[Latency] = []
    notes: list[str] = []
    for batch in wanted.batches:
        result = remote_bench(
            *(shrunk.model, wanted.remote, wanted.target, progress),
            rounds=wanted.rounds,
            threads=wanted.threads,
            baseline=shrunk.dense,
            batch=(batch,),
        )
        for run in result.runs:
            runtime = run.runtime if run.of == "model" else DENSE
            if run.error or not run.samples_ns:
                notes.append(f"no latency of {run.name}: {run.error or 'it was not timed'}")
                continue
            median = float(np.median(run.samples_ns)) / 1e6
            speed = result.ratios.get(run.name)
            latencies.append(Latency(runtime, run.batch, run.threads, median, "measured", speed))
    return latencies, notes


def _predicted(shrunk: ShrinkResult, wanted: Deploy) -> tuple[list[Latency], list[str]]:
    latencies: list[Latency] = []
    notes: list[str] = []
    for runtime in (DENSE, *wanted.runtimes):
        for batch in wanted.batches:
            model = shrunk.dense if runtime == DENSE else shrunk.model
            try:
                forecast = predict(
                    *(model, wanted.target, "auto" if runtime == DENSE else runtime),
                    batch=batch,
                    threads=wanted.threads,
                ).forecast
            except UserError as error:
                notes.append(f"no prediction of {runtime}, batch {batch}: {error}")
                continue
            time = 1e3 * forecast.seconds
            latencies.append(Latency(runtime, batch, forecast.threads, time, "predicted"))
    return latencies, notes
