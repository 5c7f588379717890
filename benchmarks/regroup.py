"""Regrouped layers: with blocks, with rows only, repacked for ONNX Runtime, and dense, in one run.

    python benchmarks/regroup.py [--batch 1,8] [--threads 1] [--rounds 30] [--networks vgg16,...]
        [--layers] [--map 32] [-o results/regroup.json]

Networks are those of the 33 real block lists (``regroup_models.py``) with maps of CIFAR's sizes.
All engines of a row run in turn on the same input; whichever differs from the dense one is not
timed; "repacked" is missing where no layer of the model pays. "Rows only" is the sparse runtime
as it was before it knew blocks: rows where a layer is sparse, dense tiles where it is not.
``--layers`` also measures each layer as a model of its own, where changes of the memory's order
at both ends count too, and adds their times up; with ``--map`` all results are maps of that size,
as in the paper's measurements, so that all cells count alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import race
import regroup_models as nets

from prunedeploy import artifact, passes
from prunedeploy import model as models
from prunedeploy.bench import interleave
from prunedeploy.environment import environment
from prunedeploy.errors import UserError
from prunedeploy.files import atomic_path, to_json
from prunedeploy.runtimes.sparse import tune
from prunedeploy.statistics import ratio
from prunedeploy.types import Engine, Ratio
from prunedeploy.verify import compare, random_feeds

RESULTS = Path(__file__).parent / "results" / "regroup.json"
DENSE, ROWS, BLOCKS, REPACKED = "dense", "rows", "blocks", "repacked"
WARMUP = 5


@dataclass(frozen=True)
class Time:
    """Microseconds a round; how many times faster than dense; off by so much of the range."""

    samples_us: tuple[float, ...]
    ratio: Ratio | None = None
    difference: float | None = None

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.samples_us)) / 1e3


@dataclass(frozen=True)
class Row:
    """One model: a network, or a layer of one."""

    model: str
    batch: int
    threads: int
    density: float
    times: dict[str, Time]


@dataclass(frozen=True)
class Results:
    """All rows of one run."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


@contextmanager
def without_blocks() -> Iterator[None]:
    """The tuner takes what is fastest without blocks, in the same measurement."""
    tune.BLOCKS = False
    try:
        yield
    finally:
        tune.BLOCKS = True


def engines(
    model: Path, threads: int, folder: Path, options: argparse.Namespace
) -> dict[str, Engine]:
    """One of each kind, the dense one first."""
    settings = race.Settings(tune=options.tune)
    found = {DENSE: artifact.build(model, "host", "ort", folder / "dense.engine")}
    found[BLOCKS] = race.build(model, threads, settings, folder / "blocks.engine")
    with without_blocks():
        found[ROWS] = race.build(model, threads, settings, folder / "rows.engine")
    packed = models.load(model)
    feeds = random_feeds(models.specs(packed)[0], 1)
    (report,) = passes.run(packed, (passes.RepackBlocks(),), feeds)
    for note in report.result.notes:
        print(f"{note.where}: {note.status}, {note.reason}", file=sys.stderr)
    if report.result.changed:
        models.save(packed, folder / "repacked.onnx")
        found[REPACKED] = artifact.build(
            folder / "repacked.onnx", "host", "ort", folder / "repacked.engine"
        )
    return found


def measure(name: str, batch: int, options: argparse.Namespace, density: float) -> Row:
    """All engines of a model in turn."""
    layers = {layer.name: layer for layer in nets.LAYERS}
    threads = options.threads
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        path = folder / "model.onnx"
        if name in layers:
            layer = layers[name]
            if options.map:
                layer = replace(layer, size=options.map * layer.stride)
            nets.write_layer(layer, batch, path)
        else:
            nets.write_network(name, batch, path)
        sessions = {
            key: stack.enter_context(artifact.open(engine, threads, shared=True))
            for key, engine in engines(path, threads, folder, options).items()
        }
        feeds = random_feeds(sessions[DENSE].inputs, batch)
        expected = sessions[DENSE].run(feeds)
        differences = {}
        for key, session in sessions.items():
            found = compare(expected, session.run(feeds))
            if not found.passed:
                raise UserError(f"{name}: {key} is off by {found.max_rel:.1e}; not timed")
            differences[key] = found.max_rel
        samples = interleave(list(sessions.values()), feeds, options.rounds, WARMUP)
    times = {
        key: Time(
            tuple(round(each / 1e3, 1) for each in taken),
            None if key == DENSE else ratio(samples[0], taken),
            differences[key],
        )
        for key, taken in zip(sessions, samples, strict=True)
    }
    return Row(name, batch, threads, density, times)


def total(name: str, rows: list[Row]) -> Row:
    """The times of all layers added up, round by round; not repacked is dense."""
    times = {}
    for kind in (DENSE, ROWS, BLOCKS, REPACKED):
        samples = [row.times.get(kind, row.times[DENSE]).samples_us for row in rows]
        times[kind] = tuple(float(sum(each)) for each in zip(*samples, strict=True))
    off = {kind: max(row.times[kind].difference or 0 for row in rows) for kind in (ROWS, BLOCKS)}
    return Row(
        f"{nets.NETWORKS[name]}, its layers one by one",
        rows[0].batch,
        rows[0].threads,
        sum(row.density for row in rows) / len(rows),
        {
            kind: Time(
                taken,
                None if kind == DENSE else ratio(_ns(times[DENSE]), _ns(taken)),
                off.get(kind),
            )
            for kind, taken in times.items()
        },
    )


def _ns(microseconds: tuple[float, ...]) -> list[int]:
    return [round(each * 1e3) for each in microseconds]


def render(rows: tuple[Row, ...]) -> Iterator[str]:
    """A line a model; "repacked" is empty where no layer of it pays."""
    kinds = (DENSE, REPACKED, ROWS, BLOCKS)
    heads = [f"{kind}, ms" for kind in kinds] + [f"{kind}, times" for kind in kinds[1:]]
    yield f"| model | batch | threads | non-zero | {' | '.join(heads)} |"
    yield "|---|---:|---:|---:|" + "---:|" * len(heads)
    for row in rows:
        found = [row.times.get(kind) for kind in kinds]
        cells = [f"{time.ms:.3f}" if time else "" for time in found]
        for time in found[1:]:
            ratio = time.ratio if time else None
            text = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""
            cells.append(text)
        name = nets.NETWORKS.get(row.model, row.model)
        yield f"| {name} | {row.batch} | {row.threads} | {row.density:.1%} | {' | '.join(cells)} |"


def all_rows(batch: int, options: argparse.Namespace) -> Iterator[Row]:
    """Each network, and its layers and their sum where they are wanted."""
    blocks = nets.block_lists()
    for network in options.networks:
        layers = [layer for layer in nets.LAYERS if layer.network == network]
        counts = {x.name: sum(block.size for block in blocks[x.name]) for x in layers}
        sizes = {x.name: int(np.prod(x.shape)) for x in layers}
        density = sum(counts.values()) / sum(sizes.values())
        if not options.map:
            yield measure(network, batch, options, density)
        if options.layers or options.map:
            rows = []
            for name, count in counts.items():
                rows.append(measure(name, batch, options, count / sizes[name]))
                yield rows[-1]
            yield replace(total(network, rows), density=density)


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments(__doc__ or "")
    parser.add_argument("--networks", type=lambda x: x.split(","), default=list(nets.NETWORKS))
    parser.add_argument("--batch", type=lambda x: [int(n) for n in x.split(",")], default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", action="store_true", help="each layer for itself, too")
    parser.add_argument("--map", type=int, default=0, help="layers only, results of this size")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[Row] = []
    for batch in options.batch:
        for row in all_rows(batch, options):
            rows.append(row)
            print(list(render((row,)))[-1], file=sys.stderr, flush=True)
            with atomic_path(options.output) as temporary:
                temporary.write_text(to_json(Results(tuple(rows), environment())))
    print("\n".join(render(tuple(rows))))


if __name__ == "__main__":
    main()
