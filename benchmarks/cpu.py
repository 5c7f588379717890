"""The sparse engine against ONNX Runtime and DeepSparse on the CPU, in Markdown.

    python benchmarks/cpu.py [--deepsparse ENV/bin/python] [--models resnet50,bert]
        [--sparsity 90,95] [--batch 1,16] [--threads 2,1] [--rounds 50] [--again]

Scattered zeros in every convolution and linear layer but the first and the last, fp32, the same
file for all; ratios are to ONNX Runtime, which ignores zeros, at the same batch and threads, with
a 95 % interval. Rows of two threads wait until the machine's cores are near each other, and say
how far they were (NOTES.md). What was measured before stands in the results file and is not
measured again unless ``--again`` says so; ``--rounds 0`` only prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import race
from race import BASELINE, OURS, PEER, Results, Row, Settings

from prunedeploy.core.errors import UserError

RESULTS = Path(__file__).parent / "results" / "cpu.json"


# The rows: a network, and the share of its weights that is zero.
TABLE = (
    ("resnet50", 0.80),
    ("resnet50", 0.90),
    ("resnet50", 0.95),
    ("mobilenet_v1_real", 0.90),
    ("mobilenet_v1", 0.90),
    ("mobilenet_v2", 0.90),
    ("resnet18", 0.90),
    ("vgg16_cifar", 0.90),
    ("bert", 0.90),
    ("resnet50", 0.00),
)


@dataclass(frozen=True)
class Choice:
    """The part of the table that is to be measured."""

    models: tuple[str, ...]
    sparsity: tuple[float, ...]
    batch: tuple[int, ...]
    threads: tuple[int, ...]

    def takes(self, model: str, sparsity: float) -> bool:
        """Whether that row is part of it."""
        return model in self.models and sparsity in self.sparsity


def measure(choice: Choice, settings: Settings, path: Path, again: bool) -> Results:
    """Measure what is missing, every row written as soon as it is there."""
    results = race.read(path)
    for model, sparsity in (row for row in TABLE if choice.takes(*row)):
        for batch in choice.batch:
            keys = [(model, sparsity, batch, count) for count in choice.threads]
            left = [key[-1] for key in keys if again or not results.has(key, settings)]
            if not left:
                continue
            try:
                for row in race.measure(model, sparsity, batch, left, settings):
                    results = results.put(row)
                    race.write(results, path)
                    print(progress(row), file=sys.stderr, flush=True)
            except UserError as error:  # one network that cannot be measured is not all
                where = f"{model}, {sparsity:.0%}, batch {batch}"
                print(f"{where}: {error}", file=sys.stderr, flush=True)
    return results


def progress(row: Row) -> str:
    """One line about a row."""
    parts = [f"{row.model} {row.sparsity:.0%} batch {row.batch} threads {row.threads}:"]
    for name, time in row.times.items():
        ratio = time.ratio
        against = f" ({ratio.value:.2f}, {ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""
        off = f" off by {time.difference:.1e}" if time.difference is not None else ""
        parts.append(f"{name} {time.ms:.2f} ms{against}{off};")
    if row.round_trip:
        parts.append(f"cores {' and '.join(map(str, row.round_trip))} ns apart")
    return " ".join(parts)


def render(results: Results, threads: int, batches: Iterable[int]) -> Iterator[str]:
    """The table for one number of threads."""
    rows = {row.key: row for row in results.rows}
    columns = list(batches)
    heads = [f"ONNX Runtime, ms | DeepSparse | **prunedeploy, batch {batch}**" for batch in columns]
    yield f"| {threads} thread{'s' * (threads > 1)} | zeros | {' | '.join(heads)} |"
    yield f"|---|---:|{'---:|' * 3 * len(columns)}"
    for model, sparsity in TABLE:
        shown = [rows.get((model, sparsity, batch, threads)) for batch in columns]
        if not any(shown):
            continue
        cells = [f"{_ms(row)} | {_ratio(row, PEER)} | {_ours(row)}" for row in shown]
        title = cpu_models.NETWORKS[model].title
        yield f"| {title} | {sparsity:.0%} | {' | '.join(cells)} |"


def _ms(row: Row | None) -> str:
    return f"{row.times[BASELINE].ms:.2f}" if row is not None else ""


def _ratio(row: Row | None, name: str) -> str:
    time = row.times.get(name) if row is not None else None
    if time is None or time.ratio is None:
        return ""
    return f"{time.ratio.value:.2f} ({time.ratio.low:.2f} to {time.ratio.high:.2f})"


def _ours(row: Row | None) -> str:
    text = _ratio(row, OURS)
    return f"**{text}**" if text else ""


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated counts."""
    return tuple(int(each) for each in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """Comma-separated percentages, as fractions."""
    return tuple(round(float(each) / 100, 6) for each in text.split(","))


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that ``arguments`` give."""
    return Settings(
        rounds=options.rounds,
        peer=options.deepsparse.absolute() if options.deepsparse else None,
        ours=not options.peers_only,
        tune=options.tune,
        cache=options.cache,
        patience=options.patience,
    )


def arguments(description: str, results: Path) -> argparse.ArgumentParser:
    """Options of every benchmark that runs peers and remembers what it measured."""
    parser = race.arguments(description)
    race.add_patience(parser)
    environment = os.environ.get("DEEPSPARSE_PYTHON")
    parser.add_argument(
        "--deepsparse",
        type=Path,
        default=Path(environment) if environment else None,
        help="the Python of its environment (requirements-deepsparse.txt); $DEEPSPARSE_PYTHON",
    )
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--peers-only", action="store_true", help="without the sparse engine")
    return parser


def main() -> None:
    """Parse, measure, print."""
    parser = arguments("the sparse engine against ONNX Runtime and DeepSparse", RESULTS)
    names = ",".join(dict.fromkeys(model for model, _ in TABLE))
    parser.add_argument("--models", default=names)
    parser.add_argument("--sparsity", type=shares, default=(0.0, 0.8, 0.9, 0.95))
    parser.add_argument("--batch", type=numbers, default=(1, 16))
    parser.add_argument("--threads", type=numbers, default=(2, 1))
    options = parser.parse_args()
    models = tuple(options.models.split(","))
    if unknown := [name for name in models if name not in cpu_models.NETWORKS]:
        parser.error(f"no network {unknown[0]!r}: choose from {', '.join(cpu_models.NETWORKS)}")
    choice = Choice(models, options.sparsity, options.batch, options.threads)
    if options.rounds:
        results = measure(choice, settings_from(options), options.results, options.again)
    else:
        results = race.read(options.results)
    for threads in choice.threads:
        print()
        print("\n".join(render(results, threads, (1, 16))))


if __name__ == "__main__":
    main()
