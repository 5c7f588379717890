"""Hybrid engines beside ONNX Runtime, on networks with an operator that the sparse runtime lacks.

    python benchmarks/hybrid.py [--models crnn,unet] [--sparsity 0.9] [--rounds 50]

Both compute the same model with the same zeros, on one thread and on all. Where no hybrid engine is
built, ``build`` takes ONNX Runtime itself, whose speed is 1. Ends with status 1 where a hybrid
engine was slower than 0.97 times ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hybrid_models

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.core.records import Engine, Ratio
from prunedeploy.core.statistics import ratio
from prunedeploy.engines import building, opening
from prunedeploy.measure.environment import environment
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.hybrid.engine import read_placement
from prunedeploy.runtimes.timing import SETTLING, interleave

RESULTS = Path(__file__).parent / "results" / "hybrid.json"
SLOWEST = 0.97


@dataclass(frozen=True)
class Time:
    """Median milliseconds on so many threads, and the speed relative to ONNX Runtime."""

    threads: int
    stock: float
    hybrid: float
    speed: Ratio


@dataclass(frozen=True)
class Row:
    """One network; ``refused`` says why there is no hybrid engine, and "" where there is one."""

    name: str
    lacks: str
    parts: int
    share: float  # of the multiply-adds that the sparse runtime computes
    difference: float  # from the reference, relative to the range of the outputs
    times: tuple[Time, ...]
    refused: str = ""


@dataclass(frozen=True)
class Results:
    """All rows, and the machine."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


def measure(name: str, sparsity: float, rounds: int) -> Row:
    """Build both engines and time them in turn."""
    lacks = hybrid_models.NETWORKS[name].lacks
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        model = Path(folder) / f"{name}.onnx"
        hybrid_models.write(name, sparsity, model)
        stock = building.build(model, "host", "ort", Path(folder) / "ort.engine")
        try:
            built = building.build(model, "host", "hybrid", Path(folder) / "hybrid.engine")
        except UserError as error:
            return Row(name, lacks, 0, 0.0, 0.0, (), str(error))
        placement, difference = read_placement(built), built.manifest.difference
        assert difference is not None
        counts = sorted({1, targets.cores()})
        times = tuple(_time(stock, built, threads, rounds) for threads in counts)
        parts, share = len(placement.parts), placement.share
        return Row(name, lacks, parts, share, difference.max_rel, times)


def _time(stock: Engine, built: Engine, threads: int, rounds: int) -> Time:
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(opening.open(engine, threads, shared=True))
            for engine in (stock, built)
        ]
        feeds = random_feeds(sessions[0].inputs, 1)
        base, ours = interleave(sessions, feeds, rounds, SETTLING)
    medians = (sorted(each)[len(each) // 2] / 1e6 for each in (base, ours))
    return Time(threads, *medians, ratio(base, ours))


def line(row: Row) -> str:
    """A row of the table."""
    if row.refused:
        return f"| {row.name} | {row.lacks} | none: {row.refused} |"
    speeds = " | ".join(
        f"{x.stock:.2f} | {x.hybrid:.2f} | **{x.speed.value:.2f}** "
        f"({x.speed.low:.2f} to {x.speed.high:.2f})"
        for x in row.times
    )
    return (
        f"| {row.name} | {row.lacks} | {row.parts} | {row.share:.1%} | {speeds} | "
        f"{row.difference:.0e} |"
    )


def _earlier(path: Path) -> dict[str, Row]:
    """The rows of an earlier run, of which those that are measured now are replaced."""
    if not path.is_file():
        return {}
    return {row.name: row for row in from_json(Results, path.read_text()).rows}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="hybrid engines beside ONNX Runtime")
    parser.add_argument("--models", default=",".join(hybrid_models.NETWORKS))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    heads = " | ".join(
        f"ONNX Runtime, ms, {n} threads | hybrid | speed" for n in sorted({1, targets.cores()})
    )
    print(f"| network | lacks | parts | multiply-adds in sparse | {heads} | difference |")
    rows = _earlier(options.results)
    for name in options.models.split(","):
        rows[name] = measure(name, options.sparsity, options.rounds)
        print(line(rows[name]), flush=True)
        with atomic_path(options.results) as temporary:
            temporary.write_text(to_json(Results(tuple(rows.values()), environment())))
    slow = [row.name for row in rows.values() if any(x.speed.value < SLOWEST for x in row.times)]
    sys.exit(f"slower than ONNX Runtime: {', '.join(slow)}" if slow else 0)


if __name__ == "__main__":
    main()
