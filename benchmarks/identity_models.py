"""The networks that ``identity.py`` makes engines of: reference networks with scattered zeros.

In every convolution and linear layer but the first and the last 90 % of the weights are zero, at
random; depthwise convolutions stay dense. Weights and the statistics of BatchNorm come from a fixed
seed, and no network is run before it is exported, so that neither the number of threads nor the
processor has a say in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import prunedeploy
from prunedeploy.models import by_name

SPARSITY = 0.9
Make = Callable[[], nn.Module]
Finish = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Network:
    """A row of ``NETWORKS``.

    ``finish`` writes the model that is built from the one that was exported. An engine of a network
    with ``built`` is made by ``prunedeploy.build`` as well.
    """

    shape: tuple[int, ...]  # of one sample
    make: Make
    batches: tuple[int, ...] = (1,)
    finish: Finish | None = None
    built: bool = False


class Mixed(nn.Module):
    """A network of what the others lack: norms of groups, resizing, reductions, odd channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 5, 2, 2)
        self.norm = nn.GroupNorm(4, 20)
        self.depthwise = nn.Conv2d(20, 20, 5, 1, 2, groups=20)
        self.grouped = nn.Conv2d(20, 36, 3, 2, 1, groups=4)
        self.instance = nn.InstanceNorm2d(36, affine=True)
        self.dilated = nn.Conv2d(36, 36, 3, 1, 2, dilation=2)
        self.pointwise = nn.Conv2d(56, 45, 1)
        self.head = nn.Linear(45, 11)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to (N, 11)."""
        first = nn.functional.silu(self.norm(self.stem(x)))
        first = nn.functional.hardswish(self.depthwise(first))
        second = nn.functional.leaky_relu(self.instance(self.grouped(first)), 0.1)
        second = torch.sigmoid(self.dilated(second)) * second
        wide = nn.functional.interpolate(second, scale_factor=2, mode="bilinear")
        wide = torch.cat([wide, nn.functional.max_pool2d(first, 3, 1, 1)], 1)
        near = nn.functional.interpolate(self.pointwise(wide), scale_factor=2, mode="nearest")
        pooled = nn.functional.avg_pool2d(near, 2) + wide.mean(1, keepdim=True)
        features = pooled.amax((2, 3)) + pooled.mean((2, 3))
        result: Tensor = self.head(features).softmax(-1)
        return result


def _recipe(name: str, sparsity: float = SPARSITY) -> nn.Module:
    module = by_name(name).factory()
    _prune(_layers(module)[1:-1], sparsity)
    return _normalised(module)


def _encoder() -> nn.Module:
    torch.backends.mha.set_fastpath_enabled(False)  # its operator has no form in ONNX
    layers = [
        nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True) for _ in range(2)
    ]
    module = nn.Sequential(*layers)
    _prune(_layers(module), SPARSITY)
    return _normalised(module)


def _mixed() -> nn.Module:
    module = Mixed()
    _prune(_layers(module)[1:-1], SPARSITY)
    return _normalised(module)


def _dead() -> nn.Module:
    """A CIFAR ResNet of which every third inner channel is zero, for ``shrink`` to remove."""
    module = _recipe("resnet20")
    parts = dict(module.named_modules())
    for name, layer in parts.items():
        if name.endswith("conv1") and "." in name and isinstance(layer, nn.Conv2d):
            norm = parts[f"{name.removesuffix('conv1')}bn1"]
            assert isinstance(norm, nn.BatchNorm2d)
            layer.weight.data[::3] = 0.0
            norm.bias.data[::3] = 0.1
            norm.running_mean.data[::3] = 0.0  # type: ignore[union-attr]
    return module


def _blocks() -> nn.Module:
    """Regrouped: 32 output channels share their inputs, and some weights stand apart."""
    convs = [nn.Conv2d(32, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)]
    for conv in convs:
        matrix = conv.weight.data.flatten(1)
        order = torch.randperm(len(matrix))
        keep = torch.rand(matrix.shape) < 0.01
        for rows in torch.split(order, 32):
            columns = torch.randperm(matrix.shape[1])[: matrix.shape[1] // 4]
            keep[rows[:, None], columns] = True
        conv.weight.data.mul_(keep.view_as(conv.weight))
    stem = nn.Conv2d(3, 32, 3, padding=1)
    body = [layer for conv in convs for layer in (conv, nn.ReLU())]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(stem, nn.ReLU(), *body, *head).eval()


def _shrunk(source: Path, output: Path) -> object:
    return prunedeploy.shrink(source, output, align=1)


def _rounded(source: Path, output: Path) -> object:
    return prunedeploy.lower(source, output, weights="float16")


IMAGE, SMALL, CIFAR = (3, 224, 224), (3, 64, 64), (3, 32, 32)
NETWORKS: dict[str, Network] = {
    "resnet18": Network(IMAGE, partial(_recipe, "resnet18"), batches=(1, 4)),
    "resnet50": Network(IMAGE, partial(_recipe, "resnet50")),
    "mobilenet_v1": Network(IMAGE, partial(_recipe, "mobilenet_v1")),
    "mobilenet_v2": Network(IMAGE, partial(_recipe, "mobilenet_v2")),
    "densenet121": Network(SMALL, partial(_recipe, "densenet121")),
    "squeezenet": Network(SMALL, partial(_recipe, "squeezenet1_1")),
    "encoder": Network((32, 128), _encoder, batches=(1, 4), built=True),
    "resnet20": Network(CIFAR, partial(_recipe, "resnet20"), built=True),
    "resnet20_dense": Network(CIFAR, partial(_recipe, "resnet20", 0.0)),
    "resnet20_shrunk": Network(CIFAR, _dead, finish=_shrunk),
    "mobilenet_v1_half": Network(SMALL, partial(_recipe, "mobilenet_v1"), finish=_rounded),
    "blocks": Network(CIFAR, _blocks),
    "mixed": Network(CIFAR, _mixed, batches=(1, 4)),
}


def write(name: str, folder: Path) -> Path:
    """The network as an ONNX file in ``folder``."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    with torch.no_grad():
        module = network.make()
    exported = prunedeploy.export(module, (1, *network.shape), folder / f"{name}.exported.onnx")
    if network.finish is None:
        return exported
    network.finish(exported, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def _layers(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def _prune(layers: list[nn.Conv2d | nn.Linear], sparsity: float) -> None:
    """Zeros at random, and the others larger by what that takes from the variance."""
    for layer in layers:
        if not (isinstance(layer, nn.Conv2d) and layer.groups > 1):
            kept = torch.rand(layer.weight.shape) >= sparsity
            layer.weight.data.mul_(kept / (1 - sparsity) ** 0.5)


def _normalised(module: nn.Module) -> nn.Module:
    """Statistics, scales and shifts that are not all alike."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)):
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return module.eval()
