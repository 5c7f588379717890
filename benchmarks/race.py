"""One interleaved run: ONNX Runtime on the dense graph, the sparse engine, and DeepSparse.

All compute the same network with the same zeros on the same input. Whoever differs from ONNX
Runtime is not timed. The rounds and the statistics are those of ``prunedeploy.measure.bench``;
DeepSparse sits in a process of its own (``deepsparse_worker.py``) and reports its own time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cpu_models
import numpy as np
from deepsparse_session import Peer, peer
from machine import settled

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.core.records import Array, Engine, Ratio
from prunedeploy.core.statistics import ratio
from prunedeploy.engines import building, opening
from prunedeploy.measure.environment import environment
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.verify import compare
from prunedeploy.runtimes.api import Session, Tuning
from prunedeploy.runtimes.timing import interleave

PEER_TOLERANCE = 1e-3  # of the output's range: other algorithms, but the same network
WARMUP = 5
Key = tuple[str, float, int, int]  # model, sparsity, batch, threads
BASELINE, OURS, PEER = "onnxruntime", "prunedeploy", "deepsparse"


@dataclass(frozen=True)
class Settings:
    """How to run, whatever is run.

    ``peer`` is the Python of DeepSparse's environment; ``patience`` how many seconds rows of
    several threads wait until the cores are near each other.
    """

    rounds: int = 50
    peer: Path | None = None
    ours: bool = True
    tune: Tuning = "quick"
    cache: Path = cpu_models.CACHE
    patience: float = 0.0


@dataclass(frozen=True)
class Time:
    """The times of one engine: microseconds a round; the rest against ONNX Runtime."""

    samples_us: tuple[float, ...]
    ratio: Ratio | None = None
    difference: float | None = None  # the largest, relative to the range of the output
    version: str = ""

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.samples_us)) / 1e3


@dataclass(frozen=True)
class Row:
    """One network at one sparsity, batch and number of threads; times by engine.

    ``round_trip`` is how far the cores were from each other, before and after; see ``machine``.
    """

    model: str
    sparsity: float
    batch: int
    threads: int
    times: dict[str, Time]
    build_s: float | None
    environment: dict[str, str]
    round_trip: tuple[int, ...] = ()

    @property
    def key(self) -> Key:
        """The key that tells it from other rows."""
        return self.model, self.sparsity, self.batch, self.threads


@dataclass(frozen=True)
class Results:
    """Everything measured so far, as it lies on disk."""

    rows: tuple[Row, ...] = ()

    def put(self, row: Row) -> Results:
        """With ``row`` in the place of the one that it measures anew."""
        kept = {each.key: each for each in self.rows} | {row.key: row}
        return Results(tuple(kept[key] for key in sorted(kept)))

    def has(self, key: Key, settings: Settings) -> bool:
        """Whether ``key`` was measured with all who are to take part, in as many rounds."""
        times = next((row.times for row in self.rows if row.key == key), {})
        needed = [BASELINE] + [OURS] * settings.ours + [PEER] * (settings.peer is not None)
        return all(
            name in times and len(times[name].samples_us) >= settings.rounds for name in needed
        )


def read(path: Path) -> Results:
    """The results at ``path``; none where there is no file."""
    return from_json(Results, path.read_text()) if path.is_file() else Results()


def write(results: Results, path: Path) -> None:
    """Put them there at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(results))


def arguments(description: str) -> argparse.ArgumentParser:
    """Options of every benchmark of the sparse engine."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--tune", choices=("none", "quick", "full"), default="quick")
    parser.add_argument("--cache", type=Path, default=cpu_models.CACHE, help="for the networks")
    return parser


def add_patience(parser: argparse.ArgumentParser) -> None:
    """For benchmarks of several threads."""
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds to wait for cores that share a cache"
    )


def measure(
    name: str, sparsity: float, batch: int, threads: Iterable[int], settings: Settings
) -> Iterator[Row]:
    """One row for each number of threads, each of a sparse engine that is built for it."""
    model = cpu_models.dynamic(name, sparsity, settings.cache)  # ours may take batches apart
    liked = cpu_models.for_onnxruntime(name, sparsity, batch, settings.cache)
    older = cpu_models.older(name, sparsity, batch, settings.cache) if settings.peer else None
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        engines = {BASELINE: building.build(liked, "host", "ort", Path(folder) / "dense.engine")}
        for count in threads:
            seconds = None
            if settings.ours:
                start = time.perf_counter()
                path = Path(folder) / "sparse.engine"
                engines[OURS] = build(model, count, settings, path, batch)
                seconds = round(time.perf_counter() - start, 1)
            run = partial(_race, engines, older, batch, count, settings)
            times, trips = settled(run, count, settings.patience)
            yield Row(name, sparsity, batch, count, times, seconds, environment(), trips)


def build(
    model: Path, threads: int, settings: Settings, path: Path, batch: int | Sequence[int] = ()
) -> Engine:
    """The sparse engine of ``model``, compared with the reference as any user's is."""
    return building.build(
        model, "host", "sparse", path, threads=threads, tune=settings.tune, batch=batch
    )


def _race(
    engines: Mapping[str, Engine], older: Path | None, batch: int, threads: int, settings: Settings
) -> dict[str, Time]:
    with ExitStack() as stack:
        sessions: dict[str, Session] = {
            name: stack.enter_context(opening.open(engine, threads, shared=True))
            for name, engine in engines.items()
        }
        dense = sessions[BASELINE]
        feeds = random_feeds(dense.inputs, batch)
        if older is not None and settings.peer is not None:
            context = peer(settings.peer, older, feeds, batch, threads, dense)
            sessions[PEER] = stack.enter_context(context)
        expected = dense.run(feeds)
        differences = {
            name: _difference(name, session, expected, feeds)
            for name, session in sessions.items()
            if session is not dense
        }
        for session in sessions.values():
            if isinstance(session, Peer):
                session.own_ns.clear()
        samples = interleave(list(sessions.values()), feeds, settings.rounds, WARMUP)
    return _times(sessions, samples, differences, engines)


def _difference(
    name: str, session: Session, expected: dict[str, Array], feeds: Mapping[str, Array]
) -> float:
    if isinstance(session, Peer):
        error = compare(expected, session.computed(), PEER_TOLERANCE)
    else:
        error = compare(expected, session.run(feeds))
    if not error.passed:
        raise UserError(
            f"{name} computes something else than ONNX Runtime: off by {error.max_rel:.2g} of the "
            f"range, {error.tolerance:.0e} is allowed; not timed"
        )
    return error.max_rel


def _times(
    sessions: Mapping[str, Session],
    samples: list[list[int]],
    differences: Mapping[str, float],
    engines: Mapping[str, Engine],
) -> dict[str, Time]:
    """By engine; the baseline is the first."""
    times: dict[str, Time] = {}
    for (name, session), measured in zip(sessions.items(), samples, strict=True):
        # every turn is two runs, of which the second counts, as in ``interleave``
        taken = session.own_ns[WARMUP:][1::2] if isinstance(session, Peer) else measured
        version = session.version if isinstance(session, Peer) else _version(engines[name])
        compared = name in differences
        times[name] = Time(
            tuple(round(each / 1e3, 1) for each in taken),
            ratio(samples[0], taken) if compared else None,
            differences.get(name),
            version,
        )
    return times


def _version(engine: Engine) -> str:
    name = engine.manifest.runtime
    versions = engine.manifest.versions
    return versions.get("onnxruntime" if name == "ort" else "prunedeploy", "")
