"""One-shot networks at equal latency: budgets and units for two, three and four times the speed.

    python benchmarks/oneshot_speed.py --data DIR [--measured 9] [--plot docs/oneshot_speed.png]

ResNet-20 for CIFAR-10, 1,000 unlabelled training images, batch 1, one thread, this machine. Each
row is planned once for a predicted speed, without corrections, so that rows of one speed have equal
predicted latency; the first ``--measured`` rows are built and measured as well. Accuracy is that on
the 1,000 lossless test images. A row is written as soon as it is there, and not computed again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from oneshot import CHECKPOINTS, accuracy, draw, prepared

from prunedeploy import checkpoint
from prunedeploy.core.files import atomic_path
from prunedeploy.sparsify.oneshot import speed
from prunedeploy.sparsify.oneshot.layers import density
from prunedeploy.sparsify.oneshot.options import OneShotOptions
from prunedeploy.sparsify.oneshot.study import study

RESULTS = Path(__file__).parent / "results" / "oneshot_speed.json"
SPEEDS = (2.0, 3.0, 4.0)
KINDS = (  # units and budget, those that matter most first
    ("scattered", "latency"),
    ("scattered", "uniform"),
    ("scattered", "global"),
    ("channels", "latency"),
    ("mixed", "latency"),
    ("blocks", "latency"),
)


@dataclass(frozen=True)
class Row:
    """Speeds are multiples of the dense network's in ONNX Runtime; accuracy is in percent."""

    units: str
    budget: str
    wanted: float
    predicted: float
    measured: float
    accuracy: float
    agreement: float
    density: float


def main() -> None:
    """Compute the rows that are missing, print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--measured", type=int, default=len(KINDS) * len(SPEEDS))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    _compute(given.data, given.measured)
    rows = _known()
    _print(rows)
    if given.plot:
        _plot(rows, given.plot)


def _compute(data: Path, measured: int) -> None:
    rows = {(row.units, row.budget, row.wanted): row for row in _known()}
    batches = draw(np.load(data / "cifar10_train50k_lossless.npz")["images"], 0)
    test = np.load(data / "cifar10_test1k_lossless.npz")
    labelled = prepared(test["images"]), torch.from_numpy(test["labels"])
    module = checkpoint.load(data / CHECKPOINTS["resnet20"]).module.requires_grad_(False)
    looked = study(module, batches, every_layer=True)
    number = 0
    for units, budget in KINDS:
        options = OneShotOptions(speedup=1.0, units=units, budget=budget, threads=1)
        plan = None
        for wanted in SPEEDS:
            number += 1
            row = rows.get((units, budget, wanted))
            if row is not None and (row.measured or number > measured):
                continue
            plan = plan or speed.plan(looked, options, lambda _: None)
            masks, _ = plan.masks(plan.costs.dense / wanted)
            sparse, _ = looked.pruned(masks)
            row = Row(
                *(units, budget, wanted, plan.predicted(masks), 0.0, accuracy(sparse, labelled)),
                *(looked.agreement(sparse), density(looked.layers, masks)),
            )
            if number <= measured:
                measurement = speed.measured(sparse, (1, 3, 32, 32), options, lambda _: None)
                row = replace(row, measured=measurement)
            print(row, flush=True)
            rows[units, budget, wanted] = row
            _write(list(rows.values()))


def _known() -> list[Row]:
    if not RESULTS.exists():
        return []
    return [Row(**row) for row in json.loads(RESULTS.read_text())["rows"]]


def _write(rows: list[Row]) -> None:
    with atomic_path(RESULTS) as path:
        path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def _print(rows: list[Row]) -> None:
    print("| speed | units | budget | predicted | measured | weights kept | accuracy | as before |")
    print("|---:|---|---|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: (row.wanted, -row.accuracy)):
        measured = f"{row.measured:.2f}x" if row.measured else "-"
        print(
            f"| {row.wanted:g}x | {row.units} | {row.budget} | {row.predicted:.2f}x | {measured} "
            f"| {row.density:.0%} | {row.accuracy:.1f} | {row.agreement:.1%} |"
        )


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for units, budget in KINDS:
        line = sorted(
            (row for row in rows if (row.units, row.budget) == (units, budget)),
            key=lambda row: row.wanted,
        )
        if line:
            axes.plot(
                [row.predicted for row in line],
                [row.accuracy for row in line],
                marker="o",
                label=f"{units}, {budget}",
            )
    axes.set_xlabel("predicted speed, dense network in ONNX Runtime = 1")
    axes.set_ylabel("accuracy on 1,000 images, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
