"""One interleaved run: ONNX Runtime on the dense graph, the sparse engine, and DeepSparse.

All compute the same network with the same zeros on the same input. Whoever differs from ONNX
Runtime is not timed. The rounds and the statistics are those of ``prunedeploy.bench``; DeepSparse
sits in a process of its own (``deepsparse_worker.py``) and reports its own time.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import numpy as np

from prunedeploy import artifact
from prunedeploy.bench import interleave
from prunedeploy.environment import environment
from prunedeploy.errors import UserError
from prunedeploy.files import atomic_path, from_json, to_json
from prunedeploy.runtimes._runtime import Session, Tuning
from prunedeploy.statistics import ratio
from prunedeploy.types import Array, Engine, Ratio, TensorSpec
from prunedeploy.verify import compare, random_feeds

WORKER = Path(__file__).with_name("deepsparse_worker.py")
PEER_TOLERANCE = 1e-3  # of the output's range: other algorithms, but the same network
WARMUP = 5
Key = tuple[str, float, int, int]  # model, sparsity, batch, threads
BASELINE, OURS, PEER = "onnxruntime", "prunedeploy", "deepsparse"


@dataclass(frozen=True)
class Settings:
    """How to run, whatever is run. ``peer`` is the Python of DeepSparse's environment."""

    rounds: int = 50
    peer: Path | None = None
    ours: bool = True
    tune: Tuning = "quick"
    cache: Path = cpu_models.CACHE


@dataclass(frozen=True)
class Time:
    """What one engine did: microseconds a round; the rest against ONNX Runtime."""

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
    """One network at one sparsity, batch and number of threads; times by engine."""

    model: str
    sparsity: float
    batch: int
    threads: int
    times: dict[str, Time]
    build_s: float | None
    environment: dict[str, str]

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
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


class Peer:
    """DeepSparse's process, as a session."""

    provider = PEER

    def __init__(self, process: subprocess.Popen[str], folder: Path, like: Session) -> None:
        self._process, self._folder = process, folder
        self.inputs: tuple[TensorSpec, ...] = like.inputs
        self.outputs: tuple[TensorSpec, ...] = like.outputs
        self.version = self._answer()
        self.own_ns: list[int] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - it has them
        """Compute; the outputs stay there, the time is remembered."""
        self.own_ns.append(int(self._ask("run")))
        return {}

    def computed(self) -> dict[str, Array]:
        """Its outputs."""
        self._ask("outputs")
        with np.load(self._folder / "outputs.npz") as arrays:
            return dict(arrays)

    def _ask(self, question: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it died of stands in its own output
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            log = (self._folder / "log").read_text(errors="replace").strip().splitlines()
            raise UserError(f"DeepSparse ended: {log[-1] if log else 'it says nothing'}")
        return answer


@contextmanager
def peer(
    python: Path, model: Path, feeds: Mapping[str, Array], batch: int, threads: int, like: Session
) -> Iterator[Peer]:
    """DeepSparse on ``model``, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", allow_pickle=False, **feeds)
        files = [model, folder / "inputs.npz", folder / "outputs.npz"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [str(x) for x in (python, WORKER, *files, batch, threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield Peer(process, folder, like)
        finally:
            process.kill()
            process.communicate()


def measure(
    name: str, sparsity: float, batch: int, threads: Iterable[int], settings: Settings
) -> Iterator[Row]:
    """One row for each number of threads, each of a sparse engine that is built for it."""
    model = cpu_models.fixed(name, sparsity, batch, settings.cache)
    older = cpu_models.older(name, sparsity, batch, settings.cache) if settings.peer else None
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        engines = {BASELINE: artifact.build(model, "host", "ort", Path(folder) / "dense.engine")}
        for count in threads:
            seconds = None
            if settings.ours:
                start = time.perf_counter()
                engines[OURS] = build(model, count, settings, Path(folder) / "sparse.engine")
                seconds = round(time.perf_counter() - start, 1)
            times = _race(engines, older, batch, count, settings)
            yield Row(name, sparsity, batch, count, times, seconds, environment())


def build(model: Path, threads: int, settings: Settings, place: Path) -> Engine:
    """The sparse engine of ``model``, compared with the reference as any user's is."""
    return artifact.build(model, "host", "sparse", place, threads=threads, tune=settings.tune)


def _race(
    engines: Mapping[str, Engine], older: Path | None, batch: int, threads: int, settings: Settings
) -> dict[str, Time]:
    with ExitStack() as stack:
        sessions: dict[str, Session] = {
            name: stack.enter_context(artifact.open(engine, threads, shared=True))
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
        found = compare(expected, session.computed(), PEER_TOLERANCE)
    else:
        found = compare(expected, session.run(feeds))
    if not found.passed:
        raise UserError(
            f"{name} computes something else than ONNX Runtime: off by {found.max_rel:.2g} of the "
            f"range, {found.tolerance:.0e} is allowed; not timed"
        )
    return found.max_rel


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
