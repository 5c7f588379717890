"""Chooses the runtime of an engine when the user names none: the fastest one.

On this machine every runtime that can compute the model builds an engine, each is compared with
the reference as any engine is, and those that pass are timed in turn for a moment: on one thread,
and on as many as the engine is asked for, which decides. For another machine the prediction does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prunedeploy import targets
from prunedeploy.core.errors import NoGainError, UnsupportedModelError, UserError
from prunedeploy.core.files import scratch_folder
from prunedeploy.core.records import Engine, Manifest, RefusedRuntime, RuntimeChoice, RuntimeTime
from prunedeploy.engines.request import BuildRequest
from prunedeploy.engines.verified_build import build_verified
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.api import BuildOptions, OpenOptions
from prunedeploy.runtimes.api import split as split_batch
from prunedeploy.runtimes.registry import RUNTIMES
from prunedeploy.targets import Target

SECONDS = 1.5  # duration of the timing for one number of threads and one batch size
MAX_ROUNDS = 100
MARGIN = 1.02  # speedup over the first in the target's list that another runtime has to reach
ON_CPU = ("ort", "sparse", "hybrid")
FALLBACK = {"hybrid": "sparse"}  # runtimes for models that another one cannot compute as a whole
ANY_BATCH = ("ort",)  # runtimes whose engines take any batch size

# The request for the engine that the runtime of a given name builds.
Requests = Callable[[str], BuildRequest]


@dataclass(frozen=True)
class Candidate:
    """An engine that computes its model, with its files in a folder of its own."""

    request: BuildRequest
    folder: Path
    manifest: Manifest


def candidates(target: Target, runtime: str) -> tuple[tuple[str, ...], tuple[RefusedRuntime, ...]]:
    """The runtimes to build with, and the target's other runtimes with why they are refused.

    Args:
        target: the machine to build for.
        runtime: the one that the user named, or "auto" for all that the target can have. A GPU of
            this machine is asked for by name.

    Raises:
        UserError: the runtime that was named cannot build for ``target`` here; of "auto", none can.
    """
    if runtime != "auto":
        if reason := registry.refuse(target, runtime):
            raise UserError(reason)
        return (runtime,), ()
    known = [name for name in target.runtimes if name in RUNTIMES and name != "null"]
    if target.name == "host":
        known = [name for name in known if name in ON_CPU]
    reasons = {name: registry.refuse(target, name) for name in known}
    usable = tuple(name for name, reason in reasons.items() if reason is None)
    if not usable:
        raise UserError(registry.refuse(target, "auto") or f"no runtime for {target.name} is here")
    refused = (
        RefusedRuntime(name, reason)
        for name, reason in reasons.items()
        if reason and reason != reasons.get(FALLBACK.get(name, ""))
    )
    return usable, tuple(refused)


def predicted(
    source: Path, target: Target, names: Sequence[str], options: BuildOptions
) -> RuntimeChoice:
    """The choice among ``names`` by prediction; the first where nothing can be predicted."""
    from prunedeploy.prediction.predict import predict

    batch = max(options.batches, default=1)
    times, refused = [], []
    for name in names:
        try:
            prediction = predict(source, target.name, name, batch=batch, threads=options.threads)
        except UserError as error:
            refused.append(RefusedRuntime(name, _reason(error)))
        else:
            forecast = prediction.forecast
            times.append(RuntimeTime(name, batch, forecast.threads, forecast.seconds))
    first = min(times, key=lambda x: x.seconds).runtime if times else names[0]
    return RuntimeChoice("predicted", first, tuple(times), tuple(refused))


@contextmanager
def measured(
    requests: Requests, names: Sequence[str], options: BuildOptions
) -> Iterator[Candidate]:
    """Build with every runtime of ``names``, time the engines in turn, and yield the fastest.

    Args:
        requests: gives the request for each runtime.
        names: at least two runtimes.
        options: the options of every build.

    Raises:
        UserError: no runtime can compute the model; its folder cannot be written.
    """
    with scratch_folder(requests(names[0]).output) as folder:
        built, refused = _build_all(requests, names, options, folder)
        times: tuple[RuntimeTime, ...] = ()
        if len(built) > 1:
            times = _race(built, options)
        best = _fastest(built, times)
        choice = RuntimeChoice("measured", best.manifest.runtime, times, refused)
        yield replace(best, manifest=replace(best.manifest, choice=choice))


def _build_all(
    requests: Requests, names: Sequence[str], options: BuildOptions, folder: Path
) -> tuple[list[Candidate], tuple[RefusedRuntime, ...]]:
    """The engines that compute what the model computes, and the runtimes that built none."""
    built, refused, errors = [], [], []
    compared = [name for name in names if name not in FALLBACK]
    lacking: set[str] = set()
    for name in names:
        if name in FALLBACK and FALLBACK[name] not in lacking:
            continue
        request, own = requests(name), folder / name
        own.mkdir()
        what = f"one of {len(compared)} runtimes to be compared"
        if name in FALLBACK:
            what = f"because {FALLBACK[name]} cannot compute all of it"
        options.progress(f"building with {name}, {what}")
        batches = () if name in ANY_BATCH else options.batches
        try:
            manifest = build_verified(own, request, replace(options, batches=batches))
        except UserError as error:
            errors.append(error)
            refused.append(RefusedRuntime(name, _reason(error)))
            if isinstance(error, UnsupportedModelError):
                lacking.add(name)
        else:
            built.append(Candidate(request, own, manifest))
    if not built:
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        reasons = "; ".join(f"{each.runtime}: {each.reason}" for each in refused)
        raise UserError(f"no runtime here can compute {requests(names[0]).origin}: {reasons}")
    return built, tuple(refused)


def _reason(error: UserError) -> str:
    """The reason without the advice to take another runtime, which happens here anyway."""
    return error.reason if isinstance(error, UnsupportedModelError | NoGainError) else str(error)


def _race(engines: Sequence[Candidate], options: BuildOptions) -> tuple[RuntimeTime, ...]:
    """The times of all engines, on one thread and on the number of threads asked for."""
    asked = options.threads or targets.cores()
    times: list[RuntimeTime] = []
    for batch in _batches(engines, options.batches):
        for threads in sorted({1, asked}):
            options.progress(f"timing {len(engines)} runtimes: batch {batch}, threads {threads}")
            times += _times(engines, batch, threads)
    return tuple(times)


def _batches(engines: Sequence[Candidate], wanted: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes to time: those asked for, else the ones that every engine takes."""
    if wanted:
        return tuple(sorted(set(wanted)))
    fixed = [spec.shape[0] for one in engines for spec in one.request.inputs if spec.shape]
    numbers = [size for size in fixed if isinstance(size, int)]
    sizes = numbers or [1]
    return tuple(
        size
        for size in dict.fromkeys(sizes)
        if all(split_batch(size, one.manifest.batches) is not None for one in engines)
    ) or (1,)


def _times(engines: Sequence[Candidate], batch: int, threads: int) -> list[RuntimeTime]:
    from prunedeploy.reference.verify import random_feeds
    from prunedeploy.runtimes.timing import SETTLING, interleave

    with ExitStack() as stack:
        sessions = []
        for one in engines:
            engine = Engine(one.folder, one.manifest, "")
            session = one.request.runtime.open(engine, OpenOptions(threads, shared=True))
            sessions.append(stack.enter_context(session))
        feeds = random_feeds(engines[0].request.inputs, batch)
        samples = interleave(sessions, feeds, MAX_ROUNDS, SETTLING, seconds=SECONDS)
    return [
        RuntimeTime(one.manifest.runtime, batch, threads, float(np.median(times)) / 1e9)
        for one, times in zip(engines, samples, strict=True)
    ]


def _fastest(engines: Sequence[Candidate], times: Sequence[RuntimeTime]) -> Candidate:
    """The engine with the smallest geometric mean of its times over the batch sizes, on the largest
    number of threads that was timed; the first one where none is faster by ``MARGIN``."""
    if len(engines) == 1:
        return engines[0]
    largest = max(each.threads for each in times)

    def score(one: Candidate) -> float:
        own = (x for x in times if x.runtime == one.manifest.runtime and x.threads == largest)
        return float(np.mean([np.log(each.seconds) for each in own]))

    best = min(engines, key=score)
    return best if score(best) + np.log(MARGIN) < score(engines[0]) else engines[0]
