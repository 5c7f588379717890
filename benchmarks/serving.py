"""A sparse network behind `prunedeploy serve`, against the same server over ONNX Runtime.

    python benchmarks/serving.py --engines FOLDER [--model mobilenet_v1_real] [--clients 1,50]
        [--seconds 20] [--turns 3] [--threads 2]

Two runtimes, each with dynamic batching and with every request computed by itself, take turns, so
that what slows the machine slows all of them. The clients run on the same cores, as does what
carries the 600 kB of every image. Every answer is compared with what the engine computes alone.
Each turn is written as soon as it is over, and a later run goes on from there. The exit status is 1
where an answer is wrong or lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import prunedeploy
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.measure.environment import environment
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


def engines(model: str, threads: int, folder: Path) -> dict[str, Path]:
    """An engine of each runtime for the same file, in ``folder`` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    built = {name: folder / f"{model}.{name}.engine" for name in ("ort", "sparse")}
    for runtime, path in built.items():
        if not path.is_dir():
            import cpu_models

            source = cpu_models.dynamic(model, SPARSITY)
            batch = BATCHES if runtime == "sparse" else ()
            prunedeploy.build(source, "host", runtime, path, batch=batch, threads=threads)
    return built


def missing(results: Results, clients: list[int], turns: int) -> Iterator[Row]:
    """The rows that lack a turn, those with the fewest first, until none does."""
    rows = {(row.runtime, row.batching, row.clients): row for row in results.rows}
    for turn in range(turns):
        for count in clients:
            for runtime in ("ort", "sparse"):
                for batching in (False, True):
                    row = rows.get((runtime, batching, count), Row(runtime, batching, count, ()))
                    if len(row.turns) <= turn:
                        yield row


def measure(row: Row, engine: Path, threads: int, seconds: float) -> Row:
    """``row`` with one more turn."""
    options = prunedeploy.ServeOptions(threads=threads, max_batch=0 if row.batching else 1)
    result = prunedeploy.loadtest(engine, clients=(row.clients,), seconds=seconds, options=options)
    return replace(row, turns=(*row.turns, *result.levels))


def put(results: Results, row: Row) -> Results:
    """``results`` with ``row`` in the place of the one that it continues."""
    key = (row.runtime, row.batching, row.clients)
    others = [x for x in results.rows if (x.runtime, x.batching, x.clients) != key]
    rows = sorted((*others, row), key=lambda x: (x.clients, x.runtime, x.batching))
    return replace(results, rows=tuple(rows), environment=environment())


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
    parser.add_argument("--clients", default="1,50")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1000, help="turns to measure now at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--engines", type=Path, required=True, help="a folder for the engines")
    options = parser.parse_args()
    clients = [int(text) for text in options.clients.split(",")]
    built = engines(options.model, options.threads, options.engines)
    results = Results(options.model, options.threads, (), {})
    if options.results.is_file():
        results = from_json(Results, options.results.read_text())
    for _ in range(options.runs):
        row = next(missing(results, clients, options.turns), None)
        if row is None:
            break
        row = measure(row, built[row.runtime], options.threads, options.seconds)
        print(line(row), file=sys.stderr, flush=True)
        results = put(results, row)
        with atomic_path(options.results) as file:
            file.write_text(to_json(results))
    print("| runtime | batching | clients | requests/s | p50 ms | p99 ms | ", end="")
    print("right | refused | wrong | lost |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(*map(line, results.rows), sep="\n")
    faults = sum(row.total("wrong") + row.total("lost") for row in results.rows)
    sys.exit(f"{faults} answers were wrong or lost" if faults else 0)


if __name__ == "__main__":
    main()
