"""Regrouped layers: with blocks, with rows only, repacked for ONNX Runtime, and dense, in one run.

    python benchmarks/regroup.py [--batch 1,8] [--threads 1] [--rounds 30] [--networks vgg16,...]
        [--layers] [--map 32] [--scattered] [-o results/regroup.json]

Networks are those of the 33 real block lists (``regroup_models.py``) with maps of CIFAR's sizes.
All engines of a row run in turn on the same input; whichever computes something else is not timed.
"Off by" is each one's largest distance from the dense model in float64, in parts of the output's
range, in the order of the columns: ONNX Runtime's own rounding first. "Repacked" is missing where
no layer of the model pays. "Rows only" is the sparse runtime as it was before it knew blocks: rows
where a layer is sparse, dense tiles where it is not.
``--layers`` also measures each layer as a model of its own, where changes of the memory's order
at both ends count too, and adds their times up; with ``--map`` all results are maps of that size,
as in the paper's measurements, so that all cells count alike.

``--scattered`` measures networks without clean blocks instead: scattered zeros, random and trained,
in which there is nothing to gain and nothing may be lost, and the real block lists with a tenth of
each block's weights gone and as many non-zeros around them, in which there is.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import race
import regroup_models as nets
import regroup_race as speed
from regroup_race import BLOCKS, DENSE, REPACKED, ROWS, Time

from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Ratio
from prunedeploy.core.statistics import ratio
from prunedeploy.graph import model as models
from prunedeploy.measure.environment import environment
from prunedeploy.passes.analysis.liveness import layers_of

RESULTS = Path(__file__).parent / "results" / "regroup.json"
KINDS = (DENSE, REPACKED, ROWS, BLOCKS)
WITHIN = 1e-6  # of the output's range: what engines of the block lists may be off by
SCATTERED = ("resnet50-90", "vgg16_cifar-90", "resnet56-90", "vgg16-near", "resnet18-near")


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


def measure(name: str, batch: int, options: argparse.Namespace) -> Row:
    """All engines of a model in turn."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        path = nets.write(name, batch, Path(folder) / "model.onnx", options.map)
        times = speed.run(path, batch, _settings(options))
        return Row(name, batch, options.threads, density(path), times)


def _settings(options: argparse.Namespace) -> speed.Settings:
    # deep networks make more of rounding than the lists' layers do
    within = None if options.scattered else WITHIN
    return speed.Settings(options.threads, options.rounds, options.tune, within)


def density(path: Path) -> float:
    """Share of the weights of a model's layers that are not zero."""
    layers = [layer.rows() for layer in layers_of(models.load(path).graph)]
    return sum(map(np.count_nonzero, layers)) / sum(layer.size for layer in layers)


def total(name: str, rows: list[Row]) -> Row:
    """The times of all layers added up, round by round; not repacked is dense."""
    times = {}
    for kind in KINDS:
        samples = [row.times.get(kind, row.times[DENSE]).samples_us for row in rows]
        times[kind] = tuple(float(sum(each)) for each in zip(*samples, strict=True))
    off = {
        kind: max((row.times[kind].difference or 0 for row in rows if kind in row.times), default=0)
        for kind in KINDS
    }
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
    heads = [f"{kind}, ms" for kind in KINDS] + [f"{kind}, times" for kind in KINDS[1:]]
    heads += ["blocks against rows", "off by, 1e-7"]
    yield f"| model | batch | threads | non-zero | {' | '.join(heads)} |"
    yield "|---|---:|---:|---:|" + "---:|" * len(heads)
    for row in rows:
        times = [row.times.get(kind) for kind in KINDS]
        cells = [f"{time.ms:.3f}" if time else "" for time in times]
        for time in times[1:]:
            cells.append(_text(time.ratio if time else None))
        cells.append(_text(ratio(*(_ns(row.times[kind].samples_us) for kind in (ROWS, BLOCKS)))))
        cells.append(" / ".join(_off(time) for time in times))
        name = nets.NETWORKS.get(row.model, row.model)
        yield f"| {name} | {row.batch} | {row.threads} | {row.density:.1%} | {' | '.join(cells)} |"


def _off(time: Time | None) -> str:
    return f"{time.difference * 1e7:.1f}" if time and time.difference is not None else ""


def _text(ratio: Ratio | None) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""


def all_rows(batch: int, options: argparse.Namespace) -> Iterator[Row]:
    """Each network, and its layers and their sum where they are wanted."""
    if options.scattered:
        yield from (measure(name, batch, options) for name in options.networks or SCATTERED)
        return
    for network in options.networks or nets.NETWORKS:
        if not options.map:
            yield measure(network, batch, options)
        if options.layers or options.map:
            layers = [layer for layer in nets.LAYERS if layer.network == network]
            rows = []
            for layer in layers:
                rows.append(measure(layer.name, batch, options))
                yield rows[-1]
            cells = [math.prod(layer.shape) for layer in layers]
            left = sum(row.density * cell for row, cell in zip(rows, cells, strict=True))
            yield replace(total(network, rows), density=left / sum(cells))


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments(__doc__ or "")
    parser.add_argument("--networks", type=lambda x: x.split(","), default=[])
    parser.add_argument("--batch", type=lambda x: [int(n) for n in x.split(",")], default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", action="store_true", help="each layer for itself, too")
    parser.add_argument("--map", type=int, default=0, help="layers only, results of this size")
    parser.add_argument("--scattered", action="store_true", help="networks without clean blocks")
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
