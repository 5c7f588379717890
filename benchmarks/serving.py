"""A sparse network behind `prunedeploy serve`, against the same server over ONNX Runtime.

    python benchmarks/serving.py [--model mobilenet_v1_real] [--clients 1,8,50] [--seconds 20]
        [--turns 3] [--threads 2] [--engines FOLDER]

Four servers run on this machine, each in a process of its own: two runtimes, each with dynamic
batching and with every request computed by itself. A load test asks them in turn, so that what
slows the machine slows all of them, each for ``turns`` times ``seconds``. It runs on the same
cores, as does what carries the 600 kB of every image. Every answer is compared with what the engine
computes alone. The exit status is 1 where one is wrong or lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import numpy as np

import prunedeploy
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Engine
from prunedeploy.engines import building, engine_folder
from prunedeploy.measure.environment import environment
from prunedeploy.serving.http.launch import launched
from prunedeploy.serving.http.loadtest import LoadLevel

RESULTS = Path(__file__).parent / "results" / "serving.json"
BATCHES = (1, 4, 16)
SPARSITY = 0.9


@dataclass(frozen=True)
class Row:
    """One server with one number of clients: a level for each turn."""

    runtime: str
    batching: bool
    clients: int
    turns: tuple[LoadLevel, ...]

    def median(self, name: str) -> float:
        """Of a figure of the turns."""
        return float(np.median([getattr(turn, name) for turn in self.turns]))

    def total(self, name: str) -> int:
        """Of a count of the turns."""
        return sum(getattr(turn, name) for turn in self.turns)


@dataclass(frozen=True)
class Results:
    """All rows, and the machine they were measured on."""

    model: str
    threads: int
    rows: tuple[Row, ...]
    environment: dict[str, str]


def engines(model: str, threads: int, folder: Path) -> dict[str, Engine]:
    """An engine of each runtime for the same file, from ``folder`` where they are there."""
    source = cpu_models.dynamic(model, SPARSITY)
    built = {}
    for runtime, batches in (("ort", ()), ("sparse", BATCHES)):
        path = folder / f"{model}.{runtime}.engine"
        if not path.is_dir():
            building.build(source, "host", runtime, path, batch=batches, threads=threads)
        built[runtime] = engine_folder.read_engine(path)
    return built


def measure(
    built: dict[str, Engine], threads: int, clients: list[int], seconds: float, turns: int
) -> Iterator[Row]:
    """Ask all servers in turn."""
    with ExitStack() as stack:
        urls = {}
        for runtime, engine in built.items():
            for batching in (False, True):
                options = prunedeploy.ServeOptions(threads=threads, max_batch=0 if batching else 1)
                urls[runtime, batching] = stack.enter_context(launched(engine.path, options))
        for count in clients:
            levels: dict[tuple[str, bool], list[LoadLevel]] = {key: [] for key in urls}
            for _ in range(turns):
                for (runtime, batching), url in urls.items():
                    result = prunedeploy.loadtest(
                        url, engine=built[runtime].path, clients=(count,), seconds=seconds
                    )
                    levels[runtime, batching] += result.levels
            for (runtime, batching), turn in levels.items():
                yield Row(runtime, batching, count, tuple(turn))


def line(row: Row) -> str:
    """A row of the table."""
    figures = ("requests_per_second", "p50_ms", "p99_ms")
    counts = ("right", "refused", "wrong", "lost")
    cells = [
        *(row.runtime, "yes" if row.batching else "no", str(row.clients)),
        *(f"{row.median(name):.1f}" for name in figures),
        *(f"{row.total(name):,}" for name in counts),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description="a sparse network behind a server, and a dense one"
    )
    parser.add_argument("--model", default="mobilenet_v1_real")
    parser.add_argument("--clients", default="1,8,50")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--engines", type=Path, help="a folder to keep the engines in")
    options = parser.parse_args()
    clients = [int(text) for text in options.clients.split(",")]
    print(
        "| runtime | batching | clients | requests/s | p50 ms | p99 ms | right | refused | wrong ",
        end="",
    )
    print("| lost |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as temporary:
        folder = options.engines or Path(temporary)
        built = engines(options.model, options.threads, folder)
        for row in measure(built, options.threads, clients, options.seconds, options.turns):
            print(line(row), flush=True)
            rows.append(row)
    with atomic_path(options.results) as file:
        file.write_text(
            to_json(Results(options.model, options.threads, tuple(rows), environment()))
        )
    faults = sum(row.total("wrong") + row.total("lost") for row in rows)
    sys.exit(f"{faults} answers were wrong or lost" if faults else 0)


if __name__ == "__main__":
    main()
