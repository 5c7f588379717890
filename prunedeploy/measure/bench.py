"""Benchmarks: the dense baseline and every candidate in turn, in one process, on the same inputs.

How runs are timed is in ``prunedeploy.runtimes.timing``; the ratio of two engines comes from the
pairs of their runs in each round (``prunedeploy.core.statistics``).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core import measurements, records
from prunedeploy.core.errors import UserError
from prunedeploy.core.log import logged
from prunedeploy.core.progress import Counted
from prunedeploy.core.records import Array, Engine, TensorSpec
from prunedeploy.core.statistics import ratio
from prunedeploy.engines import building, engine_folder, opening, sources
from prunedeploy.engines.request import Progress
from prunedeploy.graph import input_range
from prunedeploy.graph import model as models
from prunedeploy.graph.several_sizes import AllSizes
from prunedeploy.measure import labelled
from prunedeploy.measure.busy import busy_share
from prunedeploy.measure.comparable import check_comparable
from prunedeploy.measure.environment import environment
from prunedeploy.measure.labelled import Labelled
from prunedeploy.measure.memory import peak_bytes
from prunedeploy.measure.profiling import check_profiling, profiles_of
from prunedeploy.measure.sizes import AtSize, at_each_size, at_size
from prunedeploy.measure.verdicts import verdicts
from prunedeploy.prediction.engines import forecast_of
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.timing import interleave

Outputs = dict[str, Array]
Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and std, a channel each

MIN_COMPARED = 8  # random inputs that every candidate is compared on
DATA_BATCH = 50  # labelled images computed together, where the engine leaves it open


def bench(
    engines: Sequence[str | Path] | str | Path,
    baseline: str | Path | None = None,
    *,
    batch: int = 1,
    threads: int = 0,
    data: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rounds: int = 100,
    warmup: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
    profile: bool = False,
    shapes: AllSizes | None = None,
) -> measurements.BenchResult:
    """Measure engines against their dense baseline; nothing that differs from it is timed.

    Args:
        engines: folders that ``build`` wrote.
        baseline: an ONNX model, which then runs in onnxruntime, or an engine; when None the dense
            model recorded in the first engine's manifest.
        batch: inputs a run.
        threads: of every engine; 0 stands for all cores this process may use.
        data: an .npz file with ``images`` and ``labels`` (see ``labelled.load``): accuracy and
            changed predictions are counted over all of it.
        mean: per channel, for uint8 images; known where ``shrink`` recognised the architecture.
        std: the same.
        rounds: timed runs of each engine.
        warmup: untimed runs of each engine before the first round.
        seed: of the random inputs, of the order in the rounds and of the interval.
        progress: called with one line of text for each step.
        profile: also time every step of the engines that support it: of the sparse runtime, and
            every node of those on ONNX Runtime.
        shapes: sizes of inputs that the engines leave open, by their names; a sequence of such for
            several sizes. None for every size that the first engine was built for.

    Returns:
        Every sample, the differences, and the speeds relative to the baseline; of several sizes
        the result at the first, which has the others.

    Raises:
        UserError: an engine or the baseline is missing or damaged, takes another batch, is
            another network, or computes something else than the baseline.

    Example:
        >>> import prunedeploy
        >>> result = prunedeploy.bench("net.engine", "net.onnx", rounds=5)
        >>> len(result.baseline.samples_ns), result.candidates[0].difference.passed
        (5, True)
    """
    progress = logged(progress)
    _check_numbers(batch, threads, rounds, warmup)
    sizes = at_each_size(_read_candidates(engines), shapes)
    if data is not None and len(sizes) > 1:
        raise UserError("labelled images have one size: measure at that one alone, with --shape")
    if (mean is None) != (std is None):
        raise UserError("give both mean and std, or neither")
    given = (mean, std) if mean is not None and std is not None else None
    conditions = _Conditions(
        *(batch, threads or targets.cores(), rounds, warmup, seed, profile),
        *(data, given, progress),
    )
    results = []
    for size in sizes:
        if size.name:
            progress(f"size {size.name}")
        result = _bench(size, baseline, conditions)
        results.append(dataclasses.replace(result, size=size.name))
    return dataclasses.replace(results[0], others=tuple(results[1:]))


@dataclass(frozen=True)
class _Conditions:
    """How engines are measured, at every size; ``normalisation`` is mean and std, if stated."""

    batch: int
    threads: int
    rounds: int
    warmup: int
    seed: int
    profile: bool
    data: str | Path | None
    normalisation: Normalisation | None
    progress: Progress


def _bench(
    size: AtSize, baseline: str | Path | None, conditions: _Conditions
) -> measurements.BenchResult:
    """``bench`` at one size."""
    batch, used, seed = conditions.batch, conditions.threads, conditions.seed
    progress, candidates = conditions.progress, size.engines
    with ExitStack() as stack:
        opened, name = _baseline(baseline, candidates[0], stack, progress)
        dense = at_size(opened, size.shapes)
        everything = [dense, *candidates]
        check_comparable(everything, batch)
        images = _labelled(conditions.data, candidates[0], conditions.normalisation)
        progress("measuring memory")
        peaks = [peak_bytes(engine, batch, used) for engine in everything]
        sessions = [
            stack.enter_context(opening.open(engine, used, shared=True)) for engine in everything
        ]
        if conditions.profile:
            check_profiling(candidates, sessions[1:])
        inputs = _shared_inputs(everything)
        judged = verdicts(everything, sessions, inputs, batch, seed, images, progress)
        busy = busy_share()
        feeds, rounds = random_feeds(inputs, batch, seed), conditions.rounds
        samples = interleave(
            *(sessions, feeds, rounds, conditions.warmup, seed),
            tell=lambda done: progress(Counted(f"timing {rounds} rounds", done, rounds)),
        )
        profiles: tuple[measurements.Profile, ...] = ()
        if conditions.profile:
            profiles = profiles_of(
                *(size.titles, candidates, sessions[1:], feeds, batch, used, rounds)
            )
        progress("predicting the same")
        predicted = tuple(forecast_of(engine, batch, used) for engine in everything)
        measured = [
            measurements.Measurement(
                name=title,
                runtime=engine.manifest.runtime,
                provider=session.provider,
                model_sha256=engine.manifest.model_sha256,
                batch=batch,
                threads=used,
                samples_ns=tuple(times),
                peak_memory_bytes=peak,
                difference=difference,
                accuracy=accuracy,
            )
            for title, engine, session, times, peak, (difference, accuracy) in zip(
                (name, *size.titles), everything, sessions, samples, peaks, judged, strict=True
            )
        ]
    ratios = tuple(ratio(samples[0], times, seed) for times in samples[1:])
    dense_run, *others = measured
    return measurements.BenchResult(
        *(dense_run, tuple(others), ratios, environment()),
        profiles=profiles,
        predicted=predicted,
        busy=busy,
    )


def _read_candidates(engines: Sequence[str | Path] | str | Path) -> list[Engine]:
    paths = [engines] if isinstance(engines, (str, Path)) else list(engines)
    if not paths:
        raise UserError("no engine to measure: name the folder of one")
    return [engine_folder.read_engine(path) for path in paths]


def _check_numbers(batch: int, threads: int, rounds: int, warmup: int) -> None:
    for name, value, minimum in (
        ("batch", batch, 1),
        ("threads", threads, 0),
        ("rounds", rounds, 1),
        ("warmup", warmup, 0),
    ):
        if value < minimum:
            raise UserError(f"{name} must be at least {minimum}, found {value}")


def _baseline(
    baseline: str | Path | None, first: Engine, stack: ExitStack, progress: Progress
) -> tuple[Engine, str]:
    """The baseline as an engine, and its name; a model becomes one in a temporary folder."""
    path = Path(baseline) if baseline is not None else sources.baseline_of(first)
    if path is None:
        raise UserError(f"{first.path} records no dense baseline: name one with --baseline")
    if path.is_dir():
        return engine_folder.read_engine(path), path.name
    if not path.is_file():
        raise UserError(f"no such baseline: {path}")
    path = sources.model_file(path, progress)
    progress(f"building the dense baseline {path}")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prunedeploy-")))
    # best stock runtime of the host
    engine = building.build(
        *(path, "host", "ort", folder / "baseline.engine"), shapes=_open_sizes(path, first)
    )
    return engine, path.name


def _open_sizes(model: Path, first: Engine) -> dict[str, tuple[int | None, ...]]:
    """Sizes of ``first`` that the dense model leaves open, so that both compute the same."""
    have = {spec.name: spec.shape for spec in first.manifest.inputs}
    inputs, _ = models.specs(models.load(model))
    return {
        spec.name: tuple(
            new if isinstance(old, str) and isinstance(new, int) and axis else None
            for axis, (old, new) in enumerate(zip(spec.shape, have[spec.name], strict=True))
        )
        for spec in inputs
        if len(have.get(spec.name, ())) == len(spec.shape)
    }


def _labelled(
    data: str | Path | None, engine: Engine, normalisation: Normalisation | None
) -> Labelled | None:
    if data is None:
        return None
    known = normalisation or labelled.normalisation_of(engine)
    return labelled.load(Path(data), engine.manifest.inputs, known)


def _shared_inputs(engines: Sequence[Engine]) -> tuple[TensorSpec, ...]:
    """The baseline's inputs, within the ranges that all engines were built for.

    Raises:
        UserError: no input lies within the ranges of all.
    """
    ranges: dict[str, records.InputRange] = {}
    for spec in (spec for engine in engines for spec in engine.manifest.inputs):
        if spec.range is not None:
            ranges[spec.name] = input_range.meet(spec.name, ranges.get(spec.name), spec.range)
    return tuple(
        dataclasses.replace(spec, range=ranges.get(spec.name))
        for spec in engines[0].manifest.inputs
    )
