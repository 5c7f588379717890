"""Is a shrunk network ever slower than it was? Before and after in ONNX Runtime, in Markdown.

    python benchmarks/shrink_speed.py [--networks resnet18,vgg16] [--regimes clean,beta]
        [--dead 0.36] [--seconds 4] [--results FILE.json] [MODEL.onnx ...]

Every network of models/ with channels dead in four ways (tests/support/regimes.py: *clean*, *beta*
with constants that flow into padded convolutions, *columns* that nobody reads, *independent* rows),
and ONNX files of your own, shrunk with nothing said, as `prunedeploy shrink` does. ONNX Runtime
computes both in turn, on one thread, one input at a time. Ends with status 1 where a network lost
more than 2 %.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import regimes

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Ratio, ShrinkResult
from prunedeploy.core.statistics import ratio
from prunedeploy.graph import model as models
from prunedeploy.measure.environment import environment
from prunedeploy.models import RECIPES, by_name
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.api import OpenOptions
from prunedeploy.runtimes.ort.cpu import OrtSession
from prunedeploy.runtimes.timing import interleave
from prunedeploy.shrinking import pipeline
from prunedeploy.shrinking.export import to_model

RESULTS = Path(__file__).parent / "results" / "shrink_speed.json"
ALLOWED = 0.98


@dataclass(frozen=True)
class Row:
    """One network: parameters and milliseconds before and after, and the speed after beside before.

    ``kept`` are dead channels that stay, ``kind`` and ``align`` what shrink chose.
    """

    name: str
    regime: str
    parameters: tuple[int, int]
    milliseconds: tuple[float, float]
    speed: Ratio
    kind: str
    align: int
    kept: int
    seconds: float
    difference: float


@dataclass(frozen=True)
class Results:
    """All rows, and the machine."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


def network(name: str, regime: str, dead: float, file: Path) -> None:
    """A network of models/ with a share of its channels dead, at its recipe's own size."""
    recipe = by_name(name)
    torch.manual_seed(0)
    module = recipe.factory().eval()
    regimes.apply(module, name, regime, dead, seed=1, side=recipe.input_shape[1])
    program = to_model(module.to(torch.float32), (1, *recipe.input_shape))
    models.save(program, file)


def measure(name: str, regime: str, file: Path, folder: Path, seconds: float) -> Row:
    """Shrink ``file`` as the command does, and race the two."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        done = pipeline.shrink(file, folder / "small.onnx")
    taken = time.perf_counter() - begin
    with ExitStack() as stack:
        sessions = []
        for path in (file, done.model):
            specs = models.specs(models.load(path))
            session = OrtSession(path, *specs, OpenOptions(threads=1, shared=True))
            sessions.append(stack.enter_context(session))
        feeds = random_feeds(sessions[0].inputs, 1)
        samples = interleave(sessions, feeds, 2000, 5, seconds=seconds)
    medians = [sorted(times)[len(times) // 2] / 1e6 for times in samples]
    kind, kept = _chosen(done)
    return Row(
        name,
        regime,
        (done.before.parameters, done.after.parameters),
        (medians[0], medians[1]),
        ratio(samples[0], samples[1]),
        kind,
        done.align,
        kept,
        taken,
        done.difference.max_rel,
    )


def _chosen(done: ShrinkResult) -> tuple[str, int]:
    variant = next(each for each in done.variants if each.chosen)
    return variant.kind, variant.kept


def line(row: Row) -> str:
    """A row of the table."""
    before, after = row.parameters
    speed = f"{row.speed.value:.2f} ({row.speed.low:.2f} to {row.speed.high:.2f})"
    mark = " !" if row.speed.value < ALLOWED else ""
    how = (
        f"{row.kind}, multiples of {row.align}, {row.kept} kept" if row.kind == "cut" else row.kind
    )
    return (
        f"| {row.name} | {row.regime} | {before:,} | {after:,} | {row.milliseconds[0]:.2f} | "
        f"{row.milliseconds[1]:.2f} | {speed}{mark} | {how} | {row.seconds:.0f} |"
    )


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All that are asked for."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        folder = Path(name)
        for recipe in filter(None, options.networks.split(",")):
            for regime in options.regimes.split(","):
                network(recipe, regime, options.dead, folder / "dense.onnx")
                yield measure(recipe, regime, folder / "dense.onnx", folder, options.seconds)
        for file in options.models:
            try:
                yield measure(file.stem, "as it is", file, folder, options.seconds)
            except UserError as error:
                print(f"{file}: {error}", file=sys.stderr)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="before and after shrink in ONNX Runtime")
    parser.add_argument("--networks", default=",".join(recipe.name for recipe in RECIPES))
    parser.add_argument("--regimes", default=",".join(regimes.REGIMES))
    parser.add_argument("--dead", type=float, default=0.36, help="share of channels")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a race takes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files to measure as well")
    options = parser.parse_args()
    print("| network | dead channels | parameters | after | ms | after | speed | variant | s |")
    print("|---|---|---:|---:|---:|---:|---:|---|---:|")
    results = []
    for row in rows(options):
        results.append(row)
        print(line(row), flush=True)
        with atomic_path(options.results) as temporary:
            temporary.write_text(to_json(Results(tuple(results), environment())))
    slow = [row for row in results if row.speed.value < ALLOWED]
    sys.exit(f"{len(slow)} of {len(results)} are slower than before" if slow else 0)


if __name__ == "__main__":
    main()
