"""Chooses the runtime of an engine when the user names none: the fastest one.

On this machine every runtime that can compute the model builds an engine, each is compared with
the reference as any engine is, and those that pass are timed in turn for a moment: on one thread,
and on as many as the engine is asked for, which decides. For another machine the prediction does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS, is_for_gpu

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


@dataclass(frozen=True)
class Chosen:
    """The engines of the fastest runtime, one a size, and how it was chosen."""

    engines: tuple[Candidate, ...]
    choice: RuntimeChoice


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
    known = registry.automatic(target)
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
    sources: Sequence[Path], target: Target, names: Sequence[str], options: BuildOptions
) -> RuntimeChoice:
    """The choice among ``names`` by prediction; the first where nothing can be predicted.

    ``sources`` are the model's files, one a size.
    """
    from prunedeploy.prediction.predict import predict

    batch = max(options.batches, default=1)
    how: dict[str, Any] = {"batch": batch, "threads": options.threads}
    times, refused = [], []
    for name in names:
        try:
            forecasts = [predict(each, target.name, name, **how).forecast for each in sources]
        except UserError as error:
            refused.append(RefusedRuntime(name, _reason(error)))
        else:
            seconds = sum(each.seconds for each in forecasts)
            times.append(RuntimeTime(name, batch, forecasts[0].threads, seconds))
    refused += _by_name_alone(sources, target, names, batch)
    first = min(times, key=lambda x: x.seconds).runtime if times else names[0]
    return RuntimeChoice("predicted", first, tuple(times), tuple(refused), len(sources))


def _by_name_alone(
    sources: Sequence[Path], target: Target, names: Sequence[str], batch: int
) -> list[RefusedRuntime]:
    """The sparse runtime of a GPU, which is asked for by name, and what it should bring."""
    from prunedeploy.prediction.gpu_choice import layer_choices, sentence

    name = "sparse" if is_for_gpu(target) else "sparse-gpu"
    if name not in target.runtimes or name in names or target.name not in GPUS:
        return []
    try:
        choices = [choice for each in sources for choice in layer_choices(each, target, batch)]
    except UserError as error:
        return [RefusedRuntime(name, _reason(error))]
    return [
        RefusedRuntime(name, f"no GPU was measured: it is asked for by name; {sentence(choices)}")
    ]


@contextmanager
def measured(
    requests: Sequence[Requests], names: Sequence[str], options: BuildOptions, output: Path
) -> Iterator[Chosen]:
    """Build with every runtime of ``names``, time the engines in turn, and yield the fastest.

    Of several sizes the runtime counts whose times are the shortest in sum; all have that one.

    Args:
        requests: for each size what gives the request for each runtime.
        names: at least two runtimes.
        options: the options of every build.
        output: the folder that the engines go to, or one beside it.

    Raises:
        UserError: no runtime can compute the model; its folder cannot be written.
    """
    with scratch_folder(output) as folder:
        tried = [
            _build_all(each, names, options, folder / str(index))
            for index, each in enumerate(requests)
        ]
        refused = {each.runtime: each for _, others in tried for each in others}
        usable = [name for name in names if all(name in built for built, _ in tried)]
        if not usable:
            reasons = "; ".join(f"{each.runtime}: {each.reason}" for each in refused.values())
            raise UserError(f"no runtime here can compute every size: {reasons}")
        engines = [[built[name] for name in usable] for built, _ in tried]
        times = [_race(each, options) if len(usable) > 1 else () for each in engines]
        summed = _summed(times)
        best = _fastest(usable, summed)

        def choice(times: tuple[RuntimeTime, ...], sizes: int) -> RuntimeChoice:
            return RuntimeChoice("measured", best, times, tuple(refused.values()), sizes)

        chosen = tuple(
            replace(one, manifest=replace(one.manifest, choice=choice(own, 1)))
            for (built, _), own in zip(tried, times, strict=True)
            for one in (built[best],)
        )
        yield Chosen(chosen, choice(summed, len(requests)))


def _summed(times: Sequence[tuple[RuntimeTime, ...]]) -> tuple[RuntimeTime, ...]:
    """The times of all sizes as one, of each runtime, batch size and number of threads."""
    sums: dict[tuple[str, int, int], float] = {}
    for each in itertools.chain(*times):
        key = each.runtime, each.batch, each.threads
        sums[key] = sums.get(key, 0.0) + each.seconds
    return tuple(RuntimeTime(*key, seconds) for key, seconds in sums.items())


def _build_all(
    requests: Requests, names: Sequence[str], options: BuildOptions, folder: Path
) -> tuple[dict[str, Candidate], tuple[RefusedRuntime, ...]]:
    """The engines that compute what the model computes, and the runtimes that built none."""
    built: dict[str, Candidate] = {}
    refused, errors = [], []
    compared = [name for name in names if name not in FALLBACK]
    lacking: set[str] = set()
    for name in names:
        if name in FALLBACK and FALLBACK[name] not in lacking:
            continue
        request, own = requests(name), folder / name
        own.mkdir(parents=True)
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
            built[name] = Candidate(request, own, manifest)
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
    from prunedeploy.reference.drawing import random_feeds
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


def _fastest(names: Sequence[str], times: Sequence[RuntimeTime]) -> str:
    """The runtime with the smallest geometric mean of its times over the batch sizes, on the
    largest number of threads that was timed; the first one where none is faster by ``MARGIN``."""
    if len(names) == 1:
        return names[0]
    largest = max(each.threads for each in times)

    def score(name: str) -> float:
        own = (x for x in times if x.runtime == name and x.threads == largest)
        return float(np.mean([np.log(each.seconds) for each in own]))

    best = min(names, key=score)
    return best if score(best) + np.log(MARGIN) < score(names[0]) else names[0]
