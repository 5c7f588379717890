"""Which runtime an engine is built with when the user names none: the one that is fastest.

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
from prunedeploy.core.errors import UnsupportedModelError, UserError
from prunedeploy.core.files import scratch_folder
from prunedeploy.core.records import Engine, Manifest, RefusedRuntime, RuntimeChoice, RuntimeTime
from prunedeploy.engines.building import Order, fill
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.api import BuildOptions, OpenOptions
from prunedeploy.runtimes.api import split as split_batch
from prunedeploy.runtimes.registry import RUNTIMES
from prunedeploy.targets import Target

SECONDS = 1.5  # that one race takes: one number of threads, one batch size
ROUNDS = 100  # at most
MARGIN = 1.02  # a runtime further down in the target's list has to be faster than this to be taken
ON_CPU = ("ort", "sparse")
ANY_BATCH = ("ort",)  # runtimes that are not built for batch sizes: theirs take any

# The order of an engine that one runtime, by name, is to build.
Orders = Callable[[str], Order]


@dataclass(frozen=True)
class Built:
    """An engine that was found to compute its model, with its files in a folder of its own."""

    order: Order
    folder: Path
    manifest: Manifest


def candidates(target: Target, runtime: str) -> tuple[tuple[str, ...], tuple[RefusedRuntime, ...]]:
    """The runtimes to build with, and those of the target that cannot build for it here.

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
    found = tuple(name for name, reason in reasons.items() if reason is None)
    if not found:
        raise UserError(registry.refuse(target, "auto") or f"no runtime for {target.name} is here")
    refused = (RefusedRuntime(name, reason) for name, reason in reasons.items() if reason)
    return found, tuple(refused)


def predicted(
    source: Path, target: Target, names: Sequence[str], options: BuildOptions
) -> RuntimeChoice:
    """The choice among ``names`` by prediction; the first where nothing can be predicted."""
    from prunedeploy.prediction.predict import predict

    batch = max(options.batches, default=1)
    times, refused = [], []
    for name in names:
        try:
            found = predict(source, target.name, name, batch=batch, threads=options.threads)
        except UserError as error:
            refused.append(RefusedRuntime(name, _reason(error)))
        else:
            forecast = found.forecast
            times.append(RuntimeTime(name, batch, forecast.threads, forecast.seconds))
    first = min(times, key=lambda x: x.seconds).runtime if times else names[0]
    return RuntimeChoice("predicted", first, tuple(times), tuple(refused))


@contextmanager
def measured(orders: Orders, names: Sequence[str], options: BuildOptions) -> Iterator[Built]:
    """Build with every runtime of ``names``, race the engines, and give the fastest.

    Args:
        orders: makes the order of each runtime.
        names: at least two runtimes.
        options: of the builds.

    Raises:
        UserError: no runtime can compute the model; nothing can be written where it is to lie.
    """
    with scratch_folder(orders(names[0]).place) as folder:
        found, refused = _built(orders, names, options, folder)
        times: tuple[RuntimeTime, ...] = ()
        if len(found) > 1:
            times = _race(found, options)
        best = _fastest(found, times)
        choice = RuntimeChoice("measured", best.manifest.runtime, times, refused)
        yield replace(best, manifest=replace(best.manifest, choice=choice))


def _built(
    orders: Orders, names: Sequence[str], options: BuildOptions, folder: Path
) -> tuple[list[Built], tuple[RefusedRuntime, ...]]:
    """Engines that compute what the model computes, and why there are no others."""
    found, refused, errors = [], [], []
    for name in names:
        order, own = orders(name), folder / name
        own.mkdir()
        options.tell(f"building with {name}, one of {len(names)} runtimes to be compared")
        batches = () if name in ANY_BATCH else options.batches
        try:
            manifest = fill(own, order, replace(options, batches=batches))
        except UserError as error:
            errors.append(error)
            refused.append(RefusedRuntime(name, _reason(error)))
        else:
            found.append(Built(order, own, manifest))
    if not found:
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        reasons = "; ".join(f"{each.runtime}: {each.reason}" for each in refused)
        raise UserError(f"no runtime here can compute {orders(names[0]).source}: {reasons}")
    return found, tuple(refused)


def _reason(error: UserError) -> str:
    """Why, without the advice to take another runtime, which is what happens anyway."""
    return error.reason if isinstance(error, UnsupportedModelError) else str(error)


def _race(found: Sequence[Built], options: BuildOptions) -> tuple[RuntimeTime, ...]:
    """Times of all contenders, on one thread and on the threads that are asked for."""
    asked = options.threads or targets.cores()
    times: list[RuntimeTime] = []
    for batch in _batches(found, options.batches):
        for threads in sorted({1, asked}):
            options.tell(f"timing {len(found)} runtimes: batch {batch}, threads {threads}")
            times += _times(found, batch, threads)
    return tuple(times)


def _batches(found: Sequence[Built], wanted: Sequence[int]) -> tuple[int, ...]:
    """The sizes to race with: those that were asked for, else the one that all take."""
    if wanted:
        return tuple(sorted(set(wanted)))
    fixed = [spec.shape[0] for one in found for spec in one.order.inputs if spec.shape]
    numbers = [size for size in fixed if isinstance(size, int)]
    sizes = numbers or [1]
    return tuple(
        size
        for size in dict.fromkeys(sizes)
        if all(split_batch(size, one.manifest.batches) is not None for one in found)
    ) or (1,)


def _times(found: Sequence[Built], batch: int, threads: int) -> list[RuntimeTime]:
    from prunedeploy.reference.verify import random_feeds
    from prunedeploy.runtimes.timing import SETTLING, interleave

    with ExitStack() as stack:
        sessions = []
        for one in found:
            engine = Engine(one.folder, one.manifest, "")
            session = one.order.builder.open(engine, OpenOptions(threads, shared=True))
            sessions.append(stack.enter_context(session))
        feeds = random_feeds(found[0].order.inputs, batch)
        samples = interleave(sessions, feeds, ROUNDS, SETTLING, seconds=SECONDS)
    return [
        RuntimeTime(one.manifest.runtime, batch, threads, float(np.median(times)) / 1e9)
        for one, times in zip(found, samples, strict=True)
    ]


def _fastest(found: Sequence[Built], times: Sequence[RuntimeTime]) -> Built:
    """The one with the least geometric mean over batch sizes, on the most threads that were tried;
    the first where none is clearly faster."""
    if len(found) == 1:
        return found[0]
    most = max(each.threads for each in times)

    def score(one: Built) -> float:
        own = (x for x in times if x.runtime == one.manifest.runtime and x.threads == most)
        return float(np.mean([np.log(each.seconds) for each in own]))

    best = min(found, key=score)
    return best if score(best) + np.log(MARGIN) < score(found[0]) else found[0]
