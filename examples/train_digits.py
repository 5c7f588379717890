"""Train the demo's checkpoints: networks on scikit-learn's digits, then made sparse.

How the two checkpoints in ``digits/`` beside this file, and ``digits/test.npz``, were made:

1. The data are the 1,797 handwritten digits that ship with scikit-learn (8x8 pixels, 17 grey
   levels), each pixel repeated to 4x4. A fifth, 360 images with all classes in proportion, is held
   out and never trained on; it is what ``test.npz`` holds, as float32 NCHW in [-1, 1].
2. The CIFAR ResNet-56 or ResNet-20 (He et al., "Deep Residual Learning", 2016, section 4.2) with
   one input channel is trained from scratch.
3. ``resnet56_digits_sparse.pt`` has structured zeros: in every residual block the half of conv1's
   output channels with the smallest L1 norms is masked, in conv1 and in the BatchNorm after it;
   and scattered zeros: of the convolution weights that are left, the half with the smallest
   magnitudes over the whole network is masked. ``resnet20_digits_scattered.pt`` has scattered
   zeros alone: all convolution weights but the tenth with the largest magnitudes are masked.
4. It is fine-tuned under the masks, the masks are made permanent (``prune.remove``), and the
   state_dict is saved: an ordinary dense file with zeros in it, as pruned networks are published.

    python examples/train_digits.py [--out examples/digits] [NAME...]

The same seed, thread count, machine and library versions give the same weights. A few minutes
each on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils import prune

from prunedeploy.core.files import atomic_path
from prunedeploy.models import by_name

SEED = 0


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, held-out images (float32, N x 1 x 32 x 32), and the labels of each."""
    images, labels = load_digits(return_X_y=True)
    small = images.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    large = small.repeat(4, axis=2).repeat(4, axis=3)
    split = train_test_split(large, labels, test_size=360, random_state=SEED, stratify=labels)
    train, held_out, train_labels, held_out_labels = map(torch.from_numpy, split)
    return train, held_out, train_labels, held_out_labels


def untrained(arch: str) -> nn.Module:
    """The network for one input channel, with the usual random weights of its layers."""
    recipe = by_name(arch)
    network = recipe.build({**recipe.layout(), "conv1.weight": (16, 1, 3, 3)})
    network.to_empty(device="cpu")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            layer.reset_parameters()
    return network


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to 4 pixels in each direction, over the background."""
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    return F.pad(images, (4, 4, 4, 4), value=-1)[:, :, top : top + 32, left : left + 32]


def train(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, learning_rate: float
) -> None:
    """SGD with momentum, batches of 64, the learning rate up and down again over the epochs."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.SGD(network.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, epochs=epochs, steps_per_epoch=len(images) // 64
    )
    network.train()
    start = time.monotonic()
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(order) // 64 * 64].split(64):
            loss = F.cross_entropy(network(shift(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * 64 / len(images)
        print(f"  epoch {epoch:2}  loss {total:.3f}  {time.monotonic() - start:4.0f} s", flush=True)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1, as a fraction."""
    network.eval()
    return float((network(images).argmax(1) == labels).float().mean())


def mask_channels(network: nn.Module) -> None:
    """Half of each block's inner channels, then half of the convolution weights that are left."""
    layers = dict(network.named_modules())
    for name, layer in layers.items():
        if name.startswith("layer") and name.endswith(".conv1"):
            prune.ln_structured(layer, "weight", amount=0.5, n=1, dim=0)
            kept = layer.get_buffer("weight_mask").flatten(1).amax(1)
            for parameter in ("weight", "bias"):
                prune.custom_from_mask(layers[name.replace("conv1", "bn1")], parameter, kept)
    mask_scattered(network, 0.5)


def mask_scattered(network: nn.Module, share: float = 0.9) -> None:
    """The convolution weights with the smallest magnitudes over the whole network."""
    prune.global_unstructured(
        [(layer, "weight") for layer in convolutions(network)], prune.L1Unstructured, amount=share
    )


def make_permanent(network: nn.Module) -> None:
    """Multiply every mask into its parameter and forget it."""
    for layer in network.modules():
        for name in [name for name, _ in layer.named_parameters(recurse=False)]:
            if name.endswith("_orig"):
                prune.remove(layer, name.removesuffix("_orig"))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """In the order of the network."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made sparse, after ``epochs`` of training and before ``fine_tune``."""

    arch: str
    mask: Callable[[nn.Module], None]
    epochs: int = 14
    fine_tune: int = 8


CHECKPOINTS = {
    "resnet56_digits_sparse": Recipe("resnet56", mask_channels),
    "resnet20_digits_scattered": Recipe("resnet20", mask_scattered, fine_tune=14),
}


def main() -> None:
    """Train, sparsify, fine-tune and save; prints the held-out accuracy after each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CHECKPOINTS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    data = digits()
    for name in args.names or CHECKPOINTS:
        made = make(CHECKPOINTS[name], data)
        with atomic_path(args.out / f"{name}.pt") as path, path.open("wb") as file:
            # A file object, because torch stores a path's name, and this one is a temporary's.
            torch.save(made, file)
    with atomic_path(args.out / "test.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, images=data[1].numpy(), labels=data[3].numpy())


def make(recipe: Recipe, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, object]:
    """Train a sparse network; its state_dict, the name of its architecture, its accuracy."""
    images, held_out, labels, held_out_labels = data
    torch.manual_seed(SEED)
    network = untrained(recipe.arch)
    train(network, images, labels, recipe.epochs, learning_rate=0.1)
    print(f"dense     {accuracy(network, held_out, held_out_labels):.2%} of {len(held_out)}")

    recipe.mask(network)
    print(f"masked    {accuracy(network, held_out, held_out_labels):.2%}")
    train(network, images, labels, recipe.fine_tune, learning_rate=0.05)
    make_permanent(network)
    final = accuracy(network, held_out, held_out_labels)
    weights = [convolution.weight for convolution in convolutions(network)]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    dead = sum(int((w.flatten(1) == 0).all(1).sum()) for w in weights)
    print(f"sparse    {final:.2%}, {zeros:.0%} of the convolution weights zero, {dead} channels")
    return {"state_dict": network.state_dict(), "arch": recipe.arch, "accuracy": final}


if __name__ == "__main__":
    main()
