"""Predicted against measured on this machine: ONNX Runtime and the sparse engine, in Markdown.

    python benchmarks/predict.py [--models resnet50,bert] [--threads 2,1] [--rounds 30] [--again]
    python benchmarks/predict.py --fit [--rounds 30]

Batch 1, 90 % of the weights zero one by one; medians of engines that run alone. The efficiencies of
``prediction/efficiency.py`` are fitted with ``--fit``, on networks that are none of the table. The
last column is the harder trial: efficiencies fitted on the other five networks of the table alone.
Profiles are kept beside the networks; ``--again`` measures anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import predict_fit
import predict_profiles
import race
from cpu import numbers
from predict_profiles import Run

from prunedeploy import targets
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.graph import model as models
from prunedeploy.measure.environment import environment
from prunedeploy.prediction import graph, steps
from prunedeploy.prediction.efficiency import Table
from prunedeploy.prediction.machine import machine
from prunedeploy.prediction.predict import table_of
from prunedeploy.prediction.roofline import layer_times

RESULTS = Path(__file__).parent / "results" / "predict.json"
SPARSITY = 0.9
NETWORKS = ("resnet50", "resnet18", "mobilenet_v1", "mobilenet_v2", "vgg16_cifar", "bert")
FITTED_ON = (
    *("resnet34", "densenet121", "squeezenet", "vgg11", "wide_resnet32", "separable"),
    "encoder",
)
GOAL = 0.2


@dataclass(frozen=True)
class Row:
    """Milliseconds of a network in a runtime: measured, predicted, by the other networks alone."""

    network: str
    runtime: str
    threads: int
    measured: float
    predicted: float
    left_out: float


@dataclass(frozen=True)
class Results:
    """The table, as it lies on disk."""

    rows: tuple[Row, ...]
    environment: dict[str, str]


def evaluate(names: list[str], threads: list[int], settings: race.Settings) -> Results:
    """Predict every network from its file, with both tables."""
    runs = list(predict_profiles.runs(names, SPARSITY, threads, settings))
    rows = []
    for run in runs:
        others = [x for x in runs if x.runtime == run.runtime and x.network != run.network]
        left_out = predict_fit.fit(others, "")
        rows.append(
            Row(
                *(run.network, run.runtime, run.threads, 1e3 * run.seconds),
                predicted=1e3 * seconds(run, table_of(run.runtime), settings),
                left_out=1e3 * seconds(run, complete(left_out, run.runtime), settings),
            )
        )
    return Results(tuple(rows), environment())


def seconds(run: Run, table: Table, settings: race.Settings) -> float:
    """The forecast of ``prunedeploy.predict``, with any table."""
    host = targets.by_name("host")
    limits = machine(host, run.runtime, "float32", run.threads)
    if run.runtime == "sparse":
        path = cpu_models.fixed(run.network, SPARSITY, 1, settings.cache)
        works = steps.of_model(path, host, 1, run.threads)
    else:
        path = cpu_models.for_onnxruntime(run.network, SPARSITY, 1, settings.cache)
        works, _ = graph.works(models.load(path), 1, graph.Style(host.multiple))
    return table.start + sum(layer.seconds for layer in layer_times(works, limits, table))


def complete(table: Table, runtime: str) -> Table:
    """With the shipped figures for classes that none of the other networks has."""
    kernels = {**table_of(runtime).kernels, **table.kernels}
    fixed = (table.far, table.overhead, table.sync, table.start)
    return Table(kernels, *fixed, source=table.source)


def render(results: Results) -> Iterator[str]:
    """The table, and how many rows keep to the goal."""
    yield "| network | runtime | threads | measured, ms | predicted, ms | error | left out |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    errors, left_out = [], []
    for row in results.rows:
        errors.append(row.predicted / row.measured - 1)
        left_out.append(row.left_out / row.measured - 1)
        title = cpu_models.NETWORKS[row.network].title
        runtime = {"ort": "ONNX Runtime", "sparse": "sparse"}[row.runtime]
        yield (
            f"| {title} | {runtime} | {row.threads} | {row.measured:.2f} | {row.predicted:.2f} | "
            f"{errors[-1]:+.1%} | {left_out[-1]:+.1%} |"
        )
    for what, values in (("Predicted", errors), ("Left out", left_out)):
        within = sum(abs(error) <= GOAL for error in values)
        mean = sum(map(abs, values)) / len(values)
        yield (
            f"\n{what}: {within} of {len(values)} within {GOAL:.0%}, mean error {mean:.1%}, "
            f"largest {max(values, key=abs):+.1%}."
        )


def fit(threads: list[int], settings: race.Settings) -> Iterator[str]:
    """The tables of prediction/efficiency.py."""
    runs = list(predict_profiles.runs(list(FITTED_ON), SPARSITY, threads, settings))
    for runtime in ("ort", "sparse"):
        own = [run for run in runs if run.runtime == runtime]
        yield predict_fit.text(runtime.upper(), predict_fit.fit(own, ""))


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments("predicted against measured")
    parser.set_defaults(rounds=30)
    race.add_patience(parser)
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--threads", type=numbers, default=(2, 1))
    parser.add_argument("--fit", action="store_true", help="print the tables of efficiencies")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="only what was found last time")
    options = parser.parse_args()
    settings = race.Settings(
        rounds=options.rounds, tune=options.tune, cache=options.cache, patience=options.patience
    )
    names = list(FITTED_ON) if options.fit else options.models.split(",")
    if unknown := [name for name in names if name not in cpu_models.NETWORKS]:
        parser.error(f"no network {unknown[0]!r}: choose from {', '.join(cpu_models.NETWORKS)}")
    if options.again:
        predict_profiles.forget(names, SPARSITY, list(options.threads), settings)
    if options.fit:
        print("\n".join(fit(list(options.threads), settings)))
        return
    if options.print:
        results = from_json(Results, options.results.read_text())
    else:
        results = evaluate(names, list(options.threads), settings)
        with atomic_path(options.results) as file:
            file.write_text(to_json(results))
    print("\n".join(render(results)))


if __name__ == "__main__":
    main()
