"""The sparse engine on one thread and on two, where something else wants the processors.

    python benchmarks/contention.py [--models resnet50,mobilenet_v1] [--rounds 200]
        [--conditions alone,after-ort,busy,pause-10,pause-30] [--threads 2]

A service is no benchmark loop: other programs run, other libraries of the same process keep
threads spinning, requests come after pauses. Each condition is one run in which a session with one
thread and a session with more take turns; ONNX Runtime's time in the same condition stands beside.
Medians and means, in milliseconds; a mean shows what rare slow runs cost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import numpy as np
import race

from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Array, Engine
from prunedeploy.engines import building, engine_folder, opening
from prunedeploy.measure.environment import environment
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.api import Session

RESULTS = Path(__file__).parent / "results" / "contention.json"
WARMUP = 20  # runs of each session before the first that counts: a session looks for its threads
ALLOWED = 1.10  # times one thread's time that more threads may take


@dataclass(frozen=True)
class Condition:
    """The load beside the runs.

    ``pause`` is how many seconds the process sleeps before every run, ``after_ort`` whether ONNX
    Runtime has just run in this process, its threads still spinning, ``neighbours`` how many other
    processes compute without end.
    """

    name: str
    pause: float = 0.0
    after_ort: bool = False
    neighbours: int = 0


CONDITIONS = (
    Condition("alone"),
    Condition("after-ort", after_ort=True),
    Condition("busy", neighbours=1),
    Condition("pause-10", pause=10e-3),
    Condition("pause-30", pause=30e-3),
)


@dataclass(frozen=True)
class Row:
    """One network in one condition: nanoseconds of every run of each session."""

    model: str
    condition: str
    threads: int
    one: tuple[int, ...]
    more: tuple[int, ...]
    onnxruntime: tuple[int, ...]

    def ratio(self, statistic: str) -> float:
        """How long more threads take, over one thread, by the median or the mean."""
        of = np.median if statistic == "median" else np.mean
        return float(of(self.more) / of(self.one))


@dataclass(frozen=True)
class Results:
    """All rows, and the machine they were measured on."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


def _spin() -> None:
    while True:
        pass


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    if processes:
        time.sleep(1.0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure(
    model: str, dense: Engine, sparse: Engine, condition: Condition, threads: int, rounds: int
) -> Row:
    """One run of ``condition``: the sessions in turn, in every round."""
    with ExitStack() as stack:
        stack.enter_context(neighbours(condition.neighbours))
        # unless told otherwise its threads spin after a run, as in any program that uses it
        quiet = not condition.after_ort
        baseline = stack.enter_context(opening.open(dense, threads, shared=quiet))
        sessions = [stack.enter_context(opening.open(sparse, n)) for n in (1, threads)]
        feeds = random_feeds(baseline.inputs, 1)
        samples: list[list[int]] = [[], [], []]
        for _ in range(WARMUP + rounds):
            for times, session in zip(samples, [*sessions, baseline], strict=True):
                times.append(_once(session, baseline, feeds, condition))
    one, more, stock = (tuple(times[WARMUP:]) for times in samples)
    return Row(model, condition.name, threads, one, more, stock)


def _once(
    session: Session, baseline: Session, feeds: dict[str, Array], condition: Condition
) -> int:
    """Nanoseconds of one run in the condition."""
    (baseline if condition.after_ort else session).run(feeds)
    if condition.pause:
        time.sleep(condition.pause)
    start = time.perf_counter_ns()
    session.run(feeds)
    return time.perf_counter_ns() - start


def line(row: Row) -> str:
    """A row of the table."""
    one, more, stock = (np.array(times) / 1e6 for times in (row.one, row.more, row.onnxruntime))
    cells = [f"{np.median(x):.2f} ({x.mean():.2f})" for x in (one, more, stock)]
    ratios = [row.ratio("median"), row.ratio("mean")]
    mark = "" if max(ratios) <= ALLOWED else " !"
    return (
        f"| {row.model} | {row.condition} | {' | '.join(cells)} | "
        f"{ratios[0]:.2f} ({ratios[1]:.2f}){mark} | {np.median(stock) / np.median(more):.2f} |"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments("one thread against more where something else wants the processors")
    parser.set_defaults(rounds=200)
    parser.add_argument("--models", default="resnet50,mobilenet_v1,mobilenet_v2")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--conditions", default=",".join(c.name for c in CONDITIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--engines", type=Path, help="a folder to keep the engines in")
    options = parser.parse_args()
    print(f"| network | condition | 1 thread | {options.threads} threads | ONNX Runtime | ", end="")
    print("more / one | speed of ONNX Runtime |\n|---|---|---:|---:|---:|---:|---:|")
    rows = list(_rows(options))
    with atomic_path(options.results) as temporary:
        temporary.write_text(to_json(Results(tuple(rows), environment())))
    slow = [row for row in rows if max(row.ratio("median"), row.ratio("mean")) > ALLOWED]
    sys.exit(f"{len(slow)} rows in which more threads are slower" if slow else 0)


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    wanted = options.conditions.split(",")
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as temporary:
        folder = options.engines or Path(temporary)
        for model in options.models.split(","):
            dense, sparse = _engines(model, folder, options)
            for condition in CONDITIONS:
                if condition.name in wanted:
                    row = measure(model, dense, sparse, condition, options.threads, options.rounds)
                    print(line(row), flush=True)
                    yield row


def _engines(model: str, folder: Path, options: argparse.Namespace) -> tuple[Engine, Engine]:
    """Engines of ONNX Runtime and the sparse runtime, from ``folder`` where they are there."""
    source = cpu_models.dynamic(model, options.sparsity, options.cache)
    liked = cpu_models.for_onnxruntime(model, options.sparsity, 1, options.cache)
    built = []
    for name, runtime, file in (("dense", "ort", liked), ("sparse", "sparse", source)):
        path = folder / f"{model}-{options.sparsity}.{name}.engine"
        if path.is_dir():
            built.append(engine_folder.read_engine(path))
            continue
        built.append(
            building.build(file, "host", runtime, path, threads=options.threads, tune=options.tune)
        )
    return built[0], built[1]


if __name__ == "__main__":
    main()
