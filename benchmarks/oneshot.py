"""One-shot sparsification of CIFAR ResNets: accuracy over calibration seeds, and processor time.

    python benchmarks/oneshot.py --data DIR [--networks resnet20 resnet56] [--seeds 5]

For every seed 1,000 training images are drawn, without their labels; weights are scored once
(``obs``), then each density is chosen, refitted and corrected on its own. Accuracy is that on the
1,000 lossless test images. One row of a network and a seed is written as soon as it is there, and
not computed again. Seconds are those of one thread of the processor, so that they do not depend on
what else the machine does; reading files and testing are not counted.

DIR holds ``cifar10_train50k_lossless.npz``, ``cifar10_test1k_lossless.npz`` and the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunedeploy import checkpoint
from prunedeploy.core.files import atomic_path
from prunedeploy.sparsify.oneshot.one_shot import by_share
from prunedeploy.sparsify.oneshot.options import OneShotOptions
from prunedeploy.sparsify.oneshot.statistics import match_statistics
from prunedeploy.sparsify.oneshot.study import study

RESULTS = Path(__file__).parent / "results" / "oneshot.json"
CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DENSITIES = (0.5, 0.2, 0.1)
SAMPLES, BATCH = 1000, 250
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """One network, seed and density; accuracies in percent, seconds of one thread."""

    network: str
    seed: int
    density: float
    accuracy: float
    dense: float
    agreement: float
    seconds: float


def main() -> None:
    """Compute the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(CHECKPOINTS))
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = _known()
    images = np.load(given.data / "cifar10_train50k_lossless.npz")["images"]
    test = np.load(given.data / "cifar10_test1k_lossless.npz")
    labelled = prepared(test["images"]), torch.from_numpy(test["labels"])
    for name in given.networks:
        module = checkpoint.load(given.data / CHECKPOINTS[name]).module
        dense = accuracy(module, labelled)
        check_identity(module, draw(images, 0))
        for seed in range(given.seeds):
            if not any((row.network, row.seed) == (name, seed) for row in rows):
                rows += _rows(name, module, draw(images, seed), seed, labelled, dense)
                _write(rows)
    _print(rows)


def draw(images: Any, seed: int) -> list[Tensor]:
    """The calibration images of a seed, in batches."""
    chosen = np.random.default_rng(seed).choice(len(images), SAMPLES, replace=False)
    whole = prepared(images[np.sort(chosen)])
    return [whole[at : at + BATCH] for at in range(0, SAMPLES, BATCH)]


def prepared(images: Any) -> Tensor:
    """Pixels [N, H, W, C] as the network takes them."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.inference_mode()
def accuracy(module: nn.Module, labelled: Labelled) -> float:
    """Percent of the images that are classified rightly."""
    images, labels = labelled
    right = sum(
        int((module(images[at : at + BATCH]).argmax(1) == labels[at : at + BATCH]).sum())
        for at in range(0, len(labels), BATCH)
    )
    return 100 * right / len(labels)


def check_identity(module: nn.Module, batches: list[Tensor]) -> None:
    """See that the correction of statistics leaves a dense network as it is, bit for bit."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    match_statistics(module, module, batches[:1])
    assert all(bool((before[name] == x).all()) for name, x in module.state_dict().items())


def _rows(
    name: str, module: nn.Module, batches: list[Tensor], seed: int, test: Labelled, dense: float
) -> list[Row]:
    clock = time.process_time()
    looked = study(module.requires_grad_(False), batches, seed=seed)
    shared = time.process_time() - clock
    rows = []
    for density in DENSITIES:
        clock = time.process_time()
        sparse, _ = looked.pruned(by_share(looked, OneShotOptions(density=density)))
        seconds = shared + time.process_time() - clock
        row = Row(
            *(name, seed, density, accuracy(sparse, test), dense),
            *(looked.agreement(sparse), seconds),
        )
        print(row, flush=True)
        rows.append(row)
    return rows


def _known() -> list[Row]:
    if not RESULTS.exists():
        return []
    return [Row(**row) for row in json.loads(RESULTS.read_text())["rows"]]


def _write(rows: list[Row]) -> None:
    with atomic_path(RESULTS) as path:
        path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def _print(rows: list[Row]) -> None:
    print("| network | zeros | accuracy, mean | least | most | dense | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in dict.fromkeys(row.network for row in rows):
        for density in DENSITIES:
            each = [row for row in rows if (row.network, row.density) == (name, density)]
            accuracies = [row.accuracy for row in each]
            mean = statistics.mean(accuracies)
            print(
                f"| {name} | {1 - density:.0%} | {mean:.1f} | {min(accuracies):.1f} "
                f"| {max(accuracies):.1f} | {each[0].dense:.1f} "
                f"| {statistics.mean(row.seconds for row in each):.0f} |"
            )


if __name__ == "__main__":
    main()
