"""The runtime that `prunedeploy build` takes by default, and whether that was the fastest.

    python benchmarks/auto_runtime.py [--models resnet50,bert] [--sparsity 0.9] [--rounds 50]

Networks with scattered zeros, built with no option at all. Then the engine is timed again, in turn
with one of every other runtime that can compute the network. Ends with status 1 where the choice
was more than 5 % slower than the best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import race

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Ratio, RuntimeChoice
from prunedeploy.core.statistics import ratio
from prunedeploy.engines import building, opening
from prunedeploy.measure.environment import environment
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.timing import SETTLING, interleave

RESULTS = Path(__file__).parent / "results" / "auto_runtime.json"
NAMES = (
    *("resnet50", "resnet18", "mobilenet_v1_real", "mobilenet_v2", "vgg16_cifar"),
    *("densenet121", "squeezenet", "separable", "wide_resnet32", "encoder"),
)
RUNTIMES = ("ort", "sparse")
ALLOWED = 1.05


@dataclass(frozen=True)
class Row:
    """One network: the choice, seconds from the command to the engine, milliseconds of every
    runtime, and the speed of the chosen one beside ONNX Runtime's."""

    name: str
    choice: RuntimeChoice
    seconds: float
    milliseconds: dict[str, float]
    speed: Ratio


@dataclass(frozen=True)
class Results:
    """All rows, and the machine."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


def measure(name: str, sparsity: float, rounds: int, cache: Path) -> Row:
    """Build with nothing said, then the other runtimes, and race them all."""
    model = cpu_models.dynamic(name, sparsity, cache)
    threads = targets.cores()
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder, ExitStack() as stack:
        begin = time.perf_counter()
        built = building.build(model, output=Path(folder) / "auto.engine")
        taken = time.perf_counter() - begin
        assert built.manifest.choice is not None
        engines = {built.manifest.runtime: built}
        for runtime in RUNTIMES:
            if runtime not in engines:
                try:
                    path = Path(folder) / f"{runtime}.engine"
                    engines[runtime] = building.build(model, "host", runtime, path)
                except UserError as error:
                    print(f"{name}: {error}", file=sys.stderr)
        sessions = [
            stack.enter_context(opening.open(engine, threads, shared=True))
            for engine in engines.values()
        ]
        feeds = random_feeds(sessions[0].inputs, 1)
        samples = interleave(sessions, feeds, rounds, SETTLING)
    names = list(engines)
    medians = {n: sorted(x)[len(x) // 2] / 1e6 for n, x in zip(names, samples, strict=True)}
    speed = ratio(samples[names.index("ort")], samples[0])
    return Row(name, built.manifest.choice, taken, medians, speed)


def line(row: Row) -> str:
    """A row of the table."""
    chosen = row.choice.runtime
    best = min(row.milliseconds.values())
    over = row.milliseconds[chosen] / best
    times = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(row.milliseconds.items()))
    return (
        f"| {cpu_models.NETWORKS[row.name].title} | {chosen} | {row.speed.value:.2f} "
        f"({row.speed.low:.2f} to {row.speed.high:.2f}) | {over:.2f} | {times} | "
        f"{row.seconds:.0f} |"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments("the runtime that build takes by itself")
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options: argparse.Namespace = parser.parse_args()
    print("| network | taken | speed of ONNX Runtime | time of the best | ms | s to the engine |")
    print("|---|---|---:|---:|---|---:|")
    rows = []
    for name in options.models.split(","):
        rows.append(measure(name, options.sparsity, options.rounds, options.cache))
        print(line(rows[-1]), flush=True)
        with atomic_path(options.results) as temporary:
            temporary.write_text(to_json(Results(tuple(rows), environment())))
    slow = [
        row
        for row in rows
        if row.milliseconds[row.choice.runtime] > ALLOWED * min(row.milliseconds.values())
    ]
    sys.exit(f"{len(slow)} choices were not the fastest" if slow else 0)


if __name__ == "__main__":
    main()
