"""Prune a trained ResNet-56 for CIFAR-10 as a user would: channel masks, then fine-tuning.

The dense network is ``resnet56-4bfd9763.th`` of akamaster/pytorch_resnet_cifar10. In every residual
block the half of conv1's output channels with the smallest L1 norms is masked
(``torch.nn.utils.prune.ln_structured``; Li et al., "Pruning Filters for Efficient ConvNets", 2017,
section 3), then the network is fine-tuned under the masks on the real training images until the
time is up. BatchNorm is left alone: a masked channel still carries its beta, so ReLU(beta) flows
as a constant into the padded conv2 after it, which is what exact shrinking has to get right.

The result is an ordinary checkpoint, ``{"state_dict", "best_prec1"}`` with the original's
``module.`` prefix and the ``weight_orig`` / ``weight_mask`` pairs that torch writes. A time budget
is not a step count, so two runs differ in their weights.

    python benchmarks/prune_resnet56.py --data DIR --out resnet56_pruned.pt --minutes 8

DIR holds ``resnet56-4bfd9763.th``, ``cifar10_train50k_lossless.npz`` and
``cifar10_test1k_lossless.npz`` (``images`` uint8 NHWC, ``labels`` int64).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from prunedeploy.core.files import atomic_path
from prunedeploy.models import by_name

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
PREFIX = "module."


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images as uint8 NCHW and labels as int64."""
    with np.load(path) as data:
        images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
        return images, torch.from_numpy(data["labels"])


def normalise(images: Tensor) -> Tensor:
    """uint8 NCHW to what the network was trained on."""
    return ((images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """A crop of 32x32 from the image padded by 4, and a flip of every other image, at random."""
    count = len(images)
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count, 1, 1), generator=generator)
    columns = torch.arange(32).expand(count, 1, 32)
    flip = torch.rand(count, 1, 1, generator=generator) < 0.5
    columns = torch.where(flip, 31 - columns, columns) + left
    rows = torch.arange(32).view(1, 32, 1) + top
    return padded[torch.arange(count).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)


def batches(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches without end."""
    while True:
        for chosen in torch.randperm(len(images), generator=generator).split(size):
            yield normalise(augment(images[chosen], generator)), labels[chosen]


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    network.eval()
    correct = sum(
        int((network(normalise(x)).argmax(1) == y).sum())
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    )
    return 100 * correct / len(labels)


def mask_inner_channels(network: nn.Module, fraction: float) -> tuple[int, int]:
    """Mask ``fraction`` of every block's conv1 outputs by L1 norm; (masked, all) channels."""
    masked = total = 0
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name.startswith("layer") and name.endswith(".conv1"):
            prune.ln_structured(module, "weight", amount=fraction, n=1, dim=0)
            dead = module.get_buffer("weight_mask").flatten(1).sum(1) == 0
            masked, total = masked + int(dead.sum()), total + len(dead)
    return masked, total


def fine_tune(
    network: nn.Module, images: Tensor, labels: Tensor, minutes: float, learning_rate: float
) -> int:
    """SGD under the masks with the learning rate on a cosine over the time; how many images."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=1e-4
    )
    generator = torch.Generator().manual_seed(0)
    network.train()
    seen, running = 0, math.nan
    start = shown = time.monotonic()
    for step, (x, y) in enumerate(batches(images, labels, 128, generator)):
        now = time.monotonic()
        done = (now - start) / (60 * minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(x)
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if now - shown > 30:
            shown = now
            print(f"  {now - start:5.0f} s  {seen:7,d} images  loss {running:.3f}", flush=True)
    return seen


def main() -> None:
    """Prune, fine-tune, save, and print the accuracy after each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with weights and images")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--minutes", type=float, default=8, help="time for fine-tuning")
    parser.add_argument("--fraction", type=float, default=0.5, help="channels to mask in a block")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    dense = torch.load(args.data / "resnet56-4bfd9763.th", map_location="cpu", weights_only=True)
    weights = {k.removeprefix(PREFIX): v for k, v in dense["state_dict"].items()}
    network = by_name("resnet56").build({k: tuple(v.shape) for k, v in weights.items()})
    network.load_state_dict(weights, assign=True)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    test = load_images(args.data / "cifar10_test1k_lossless.npz")
    print(f"dense        {accuracy(network, *test):.1f} % of {len(test[1]):,d} test images")

    masked, total = mask_inner_channels(network, args.fraction)
    print(f"masked       {accuracy(network, *test):.1f} %, {masked} of {total} inner channels gone")

    train = load_images(args.data / "cifar10_train50k_lossless.npz")
    seen = fine_tune(network, *train, args.minutes, args.learning_rate)
    final = accuracy(network, *test)
    print(f"fine-tuned   {final:.1f} %, {seen:,d} images in {args.minutes:g} minutes")

    state = {PREFIX + k: v.contiguous() for k, v in network.state_dict().items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as path, path.open("wb") as file:
        torch.save({"state_dict": state, "best_prec1": final}, file)
    print(f"wrote {args.out}, {args.out.stat().st_size:,d} bytes")


if __name__ == "__main__":
    main()
