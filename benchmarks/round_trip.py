"""There and back: a pruned ResNet-56 shrunk, fine-tuned in PyTorch, and shrunk again.

Both ways back are taken: the torch.export program (``.pt2``; BatchNorm is folded, no source code
needed), and the user's own network sliced by the plan (BatchNorm as it was). Each is fine-tuned on
the real training images for an epoch, or for the first ``--samples`` of a shuffled one, and goes
through ``prunedeploy.shrink`` once more. Printed is the accuracy on the lossless test images after
every step; the second shrink may change no prediction.

    python benchmarks/prune_resnet56.py --data DIR --out pruned.pt --minutes 8
    python benchmarks/round_trip.py --data DIR --checkpoint pruned.pt --work FOLDER

DIR is that of ``prune_resnet56.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from prune_resnet56 import batches, load_images, normalise
from torch import Tensor, nn

import prunedeploy
from prunedeploy.models import by_name

Images = tuple[Tensor, Tensor]
SIZE = 100


@torch.inference_mode()
def predictions(network: nn.Module, images: Tensor) -> Tensor:
    """The class of every image."""
    return torch.cat([network(normalise(x)).argmax(1) for x in images.split(SIZE)])


def fine_tune(network: nn.Module, train: Images, samples: int, rate: float) -> float:
    """SGD on ``samples`` images, the learning rate falling to zero; seconds."""
    begin = time.perf_counter()
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=1e-4)
    steps = max(1, samples // SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    source = batches(*train, SIZE, torch.Generator().manual_seed(0))
    for _, (x, y) in zip(range(steps), source, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - begin


def by_program(work: Path, train: Images, samples: int, rate: float) -> tuple[nn.Module, Path]:
    """Fine-tune the program, and export it again as any user would."""
    network = torch.export.load(work / "shrunk.pt2").module()
    print(f"  .pt2: {fine_tune(network, train, samples, rate):.0f} s", flush=True)
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = torch.zeros(2, 3, 32, 32)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, work / "tuned.pt2")
    return network, work / "tuned.pt2"


def sliced(work: Path) -> nn.Module:
    """The network of the user's own code, sliced."""
    network = by_name("resnet56").factory()
    prunedeploy.apply_plan(network, work / "shrunk.pt")
    saved = torch.load(work / "shrunk.pt", weights_only=True)
    network.load_state_dict(saved["state_dict"])
    return network.eval()


def by_plan(work: Path, train: Images, samples: int, rate: float) -> tuple[nn.Module, Path]:
    """Fine-tune the sliced network, and save it as any user would."""
    network = sliced(work).train()
    print(f"  state_dict: {fine_tune(network, train, samples, rate):.0f} s", flush=True)
    torch.save({"state_dict": network.state_dict()}, work / "tuned.pt")
    return network.eval(), work / "tuned.pt"


def row(step: str, network: nn.Module, test: Images, before: Tensor | None = None) -> Tensor:
    """Print one line of the table; the predictions."""
    predicted = predictions(network, test[0])
    right = 100 * float((predicted == test[1]).float().mean())
    count = sum(p.numel() for p in network.parameters())
    changed = "" if before is None else f"{int((predicted != before).sum())}"
    print(f"| {step} | {count:,} | {right:.1f} % | {changed} |", flush=True)
    return predicted


def main() -> None:
    """Shrink, fine-tune both ways, shrink again; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the images")
    parser.add_argument("--checkpoint", type=Path, required=True, help="pruned ResNet-56")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--samples", type=int, default=50_000, help="images to fine-tune on")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    test = load_images(args.data / "cifar10_test1k_lossless.npz")
    train = load_images(args.data / "cifar10_train50k_lossless.npz")

    files = {"pt": work / "shrunk.pt2", "state_dict": work / "shrunk.pt"}
    prunedeploy.shrink(args.checkpoint, work / "shrunk.onnx", **files)
    print(f"fine-tuning on {args.samples:,} of {len(train[1]):,} images each way", flush=True)
    tuned = {
        "program": by_program(work, train, args.samples, args.learning_rate),
        "state_dict": by_plan(work, train, args.samples, args.learning_rate),
    }
    print(
        "\n| network | parameters | accuracy | changed predictions |\n| --- | ---: | ---: | ---: |"
    )
    before = row("pruned checkpoint", prunedeploy.load(args.checkpoint).module, test)
    row("shrunk, .pt2", torch.export.load(work / "shrunk.pt2").module(), test, before)
    row("shrunk, state_dict + plan", sliced(work), test, before)
    for name, (network, path) in tuned.items():
        after = row(f"{name}, fine-tuned", network, test)
        again = work / f"again-{name}.onnx"
        prunedeploy.shrink(path, again, trust=path.suffix == ".pt2", pt=again.with_suffix(".pt2"))
        second = torch.export.load(again.with_suffix(".pt2")).module()
        row(f"{name}, fine-tuned and shrunk again", second, test, after)


if __name__ == "__main__":
    main()
