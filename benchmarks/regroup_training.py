"""Train a network, make it sparse in three ways at one density, fine-tune each alike, measure.

    python benchmarks/regroup_training.py --data DIR --work FOLDER [--minutes 7] [--measure]

The network is VGG-16 for CIFAR-10 at half its widths, trained on the real images. Its three sparse
forms keep the same number of weights:

- *regrouped*: the smallest magnitudes of all layers together are dropped, then every layer with
  rows enough is regrouped (``passes.blocks``, mode "paper") with the largest ``t2`` that leaves it
  as many weights as it had; weights that its blocks take in are the trained ones again. Layers
  without a block keep their scattered zeros.
- *scattered*: in every layer as many weights as the regrouped one has, those of largest magnitude.
- *channels*: the same share of every layer's output channels, those of largest L1 norm (Li et al.,
  "Pruning Filters for Efficient ConvNets", 2017).

Each is fine-tuned for ``--tune-epochs``, batches and learning rates alike. Training stops after
``--minutes`` and says so; the next call goes on where it stopped, with the same batches. With
``--measure`` what is finished is exported, measured in one interleaved run, and printed as a table.
Accuracy is that of the engine itself on the 1,000 lossless test images.

DIR holds ``cifar10_train50k_lossless.npz`` and ``cifar10_test1k_lossless.npz``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regroup_deploy as deploy
import regroup_race as speed
import torch
import torch.nn.functional as F
from prune_resnet56 import accuracy, augment, load_images, normalise
from torch import Tensor, nn

from prunedeploy.core.files import atomic_path
from prunedeploy.core.records import Array
from prunedeploy.models import by_name
from prunedeploy.passes.blocks import Regrouped, Rule, regroup

ARCH = "vgg16_bn_cifar"
RESULTS = Path(__file__).parent / "results" / "regroup_training.json"
BATCH = 128
FIRST = "features.0"  # reads the pixels, and stays whole
Masks = dict[str, Tensor]  # 1 where a parameter may be other than zero
Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: epochs, the highest learning rate, epochs to get there."""

    epochs: int
    rate: float
    warmup: float = 0.0


# -- networks and masks ----------------------------------------------------------------------------


def build(width: float) -> nn.Module:
    """The network at ``width`` times its published widths, initialised."""
    recipe = by_name(ARCH)

    def scaled(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = [max(round(size * width), 1) for size in shape[:2]]
        if name == f"{FIRST}.weight":
            sizes[1] = shape[1]
        if name.startswith("classifier"):
            sizes[0] = shape[0]
        return (*sizes[: len(shape)], *shape[2:])

    network = recipe.build({name: scaled(name, x) for name, x in recipe.layout().items()})
    network = network.to_empty(device="cpu")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        elif isinstance(layer, (nn.Linear, nn.BatchNorm2d)):
            layer.reset_parameters()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The layers that become sparse, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and name != FIRST
    }


def regrouped(network: nn.Module, share: float) -> Masks:
    """Blocks made of the ``share`` of the weights that are largest in magnitude."""
    layers = convolutions(network)
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers.values()])
    threshold = float(sizes.kthvalue(round((1 - share) * sizes.numel())).values)
    masks = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().numpy()
        kept = np.where(np.abs(weight) > threshold, weight, 0)
        result = as_many(kept)
        print(f"{name}: {result.note}", file=sys.stderr)
        masks[f"{name}.weight"] = torch.from_numpy(result.mask.reshape(weight.shape).copy())
    return masks


def as_many(weight: Array) -> Regrouped:
    """``weight`` regrouped in groups of about 32 rows, with as many weights as it has, or more.

    Found by bisection: the smaller ``t2``, the more columns are in the blocks.
    """
    count, groups = np.count_nonzero(weight), max(len(weight) // 32, 1)
    low, high = 1, 33
    best = None
    while high - low > 1 or best is None:
        middle = (low + high) // 2
        trial = regroup(weight, Rule("paper", t1=groups, t2=middle))
        if trial.found and trial.mask.sum() >= count:
            low, best = middle, trial
        elif middle == 1:
            return trial
        else:
            high = middle
    return best


def scattered(network: nn.Module, like: Masks) -> Masks:
    """As many weights a layer as ``like`` has, the largest."""
    masks = {}
    for name, layer in convolutions(network).items():
        sizes = layer.weight.detach().abs().flatten()
        kept = sizes.topk(int(like[f"{name}.weight"].sum())).indices
        mask = torch.zeros(sizes.numel(), dtype=torch.bool)
        mask[kept] = True
        masks[f"{name}.weight"] = mask.view_as(layer.weight)
    return masks


def channels(network: nn.Module, like: Masks) -> Masks:
    """The largest share of all output channels that leaves no more weights than ``like`` has."""
    wanted = sum(int(mask.sum()) for mask in like.values())
    share = next(s for s in np.arange(1, 0, -0.005) if _left(network, float(s)) <= wanted)
    masks: Masks = {}
    names = dict(network.named_modules())
    for name, layer in names.items():
        if not isinstance(layer, nn.Conv2d):
            continue
        norms = layer.weight.detach().abs().sum((1, 2, 3))
        mask = torch.zeros(len(norms), dtype=torch.bool)
        mask[norms.topk(_kept(len(norms), float(share))).indices] = True
        masks[f"{name}.weight"] = mask.view(-1, 1, 1, 1).expand_as(layer.weight)
        stem, index = name.rsplit(".", 1)
        for parameter in (f"{name}.bias", f"{stem}.{int(index) + 1}.weight",
                          f"{stem}.{int(index) + 1}.bias"):  # fmt: skip
            masks[parameter] = mask
    return masks


def _kept(count: int, share: float) -> int:
    return max(round(count * share), 1)


def _left(network: nn.Module, share: float) -> int:
    """Weights of all sparse layers if ``share`` of every layer's outputs is left."""
    return sum(
        math.prod((_kept(layer.out_channels, share), _kept(layer.in_channels, share), 9))
        for layer in convolutions(network).values()
    )


# -- training --------------------------------------------------------------------------------------


def train(
    network: nn.Module, masks: Masks, recipe: Recipe, images: Images, path: Path, until: float
) -> bool:
    """Train from where the file at ``path`` stands; whether it is finished before ``until``."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    each = len(images[1]) // BATCH
    steps, begin = recipe.epochs * each, 0
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["state_dict"])
        begin = saved["step"]
        if begin == steps:
            return True
        optimizer.load_state_dict(saved["optimizer"])
    masked = [(p, masks[name].float()) for name, p in network.named_parameters() if name in masks]
    network.train()
    step = begin
    while step < steps and time.monotonic() < until:
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step / each)
        loss = _loss(network, images, step, each)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, mask in masked:
                parameter.mul_(mask)
        step += 1
        if step % 100 == 0:
            print(f"  {path.stem}: {step} of {steps} steps, loss {loss.item():.3f}", flush=True)
    _save(path, network, step, optimizer.state_dict())
    return step == steps


def _rate(recipe: Recipe, epoch: float) -> float:
    """Up in a line, down along a cosine."""
    if epoch < recipe.warmup:
        return recipe.rate * (epoch + 0.02) / (recipe.warmup + 0.02)
    done = (epoch - recipe.warmup) / (recipe.epochs - recipe.warmup)
    return recipe.rate * (1 + math.cos(math.pi * done)) / 2


def _loss(network: nn.Module, images: Images, step: int, each: int) -> Tensor:
    """The loss of the batch of a step, which depends on nothing but the step."""
    order = torch.Generator().manual_seed(step // each)
    chosen = torch.randperm(len(images[1]), generator=order)[step % each * BATCH :][:BATCH]
    x = normalise(augment(images[0][chosen], torch.Generator().manual_seed(step)))
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(network(x).float(), images[1][chosen])


def _save(store: Path, network: nn.Module, step: int, optimizer: dict[str, Any]) -> None:
    state = {name: x.contiguous() for name, x in network.state_dict().items()}
    with atomic_path(store) as path, path.open("wb") as file:
        torch.save({"state_dict": state, "step": step, "optimizer": optimizer}, file)


# -- the stages ------------------------------------------------------------------------------------


def stages(options: argparse.Namespace, until: float) -> bool:
    """Everything that is to be trained, in order; whether all of it is."""
    work: Path = options.work
    images = load_images(options.data / "cifar10_train50k_lossless.npz")
    test = load_images(options.data / "cifar10_test1k_lossless.npz")
    torch.manual_seed(0)
    dense = build(options.width)
    recipe = Recipe(options.epochs, 0.1, 1.0)
    if not train(dense, {}, recipe, images, work / "dense.pt", until):
        return False
    masks = _masks(dense, options)
    for name, mask in masks.items():
        network = build(options.width)
        network.load_state_dict(dense.state_dict())
        _apply(network, mask)
        before = work / f"{name}-before.pt"
        if not before.is_file():
            print(f"{name}: {accuracy(network, *test):.1f} % before fine-tuning", flush=True)
            _save(before, network, 0, {})
        recipe = Recipe(options.tune_epochs, 0.02)
        if not train(network, mask, recipe, images, work / f"{name}.pt", until):
            return False
        print(f"{name}: {accuracy(network, *test):.1f} % after it", flush=True)
    return True


def _masks(dense: nn.Module, options: argparse.Namespace) -> dict[str, Masks]:
    """The masks of every sparse form; made once, for the file holds them."""
    store: Path = options.work / "masks.pt"
    if not store.is_file():
        like = regrouped(dense, options.share)
        forms: dict[str, Callable[[nn.Module, Masks], Masks]] = {
            "scattered": scattered,
            "channels": channels,
        }
        made = {"regrouped": like} | {name: make(dense, like) for name, make in forms.items()}
        with atomic_path(store) as path, path.open("wb") as file:
            torch.save({n: {k: m.clone() for k, m in x.items()} for n, x in made.items()}, file)
    masks: dict[str, Masks] = torch.load(store, weights_only=True)
    return masks


@torch.no_grad()
def _apply(network: nn.Module, masks: Masks) -> None:
    for name, parameter in network.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])


def main() -> None:
    """Train what is not trained yet; measure if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the images")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--width", type=float, default=0.5, help="of the published widths")
    parser.add_argument("--epochs", type=int, default=8, help="of the dense network")
    parser.add_argument("--tune-epochs", type=int, default=2, help="of every sparse form")
    parser.add_argument("--share", type=float, default=0.2, help="of weights, before regrouping")
    parser.add_argument("--measure", action="store_true", help="and print the table")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not stages(options, time.monotonic() + 60 * options.minutes):
        print("not finished: run it again to go on")
        return
    if options.measure:
        settings = speed.Settings(options.threads, options.rounds)
        lines = deploy.measure(
            ARCH, options.work, options.data, options.batch, settings, options.output
        )
        print("\n".join(lines))


if __name__ == "__main__":
    main()
