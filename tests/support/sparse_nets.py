"""Small networks to make sparse, their channel units written down by hand, and data to learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings
from prunedeploy.sparsify.units import LAYERS, Group, Masks, Slices, Units


class Gated(nn.Module):
    """Two convolutions, the first with BatchNorm, and factors c on what they write."""

    def __init__(self, smooth: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 5, 3)
        self.last = nn.Linear(5, 4)
        self.act = nn.Tanh() if smooth else nn.ReLU()
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias, -0.3, 0.3)
        nn.init.normal_(self.norm.running_mean, std=0.1)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)
        self.norm.num_batches_tracked.fill_(1)

    def forward(
        self, x: Tensor, before: Tensor | None = None, behind: Tensor | None = None
    ) -> Tensor:
        """Logits; ``before`` and ``behind`` [6] scale channels before and behind BatchNorm."""
        y = self.one(x)
        y = self.norm(y if before is None else y * before[:, None, None])
        y = y if behind is None else y * behind[:, None, None]
        return self.last(self.act(self.two(self.act(y))).mean((2, 3)))


def gated_units() -> Units:
    """The channels between the convolutions."""
    at = torch.arange(6)
    members = (
        Slices("one.weight", (6, 2, 3, 3), 0, at),
        Slices("one.bias", (6,), 0, at),
        Slices("norm.weight", (6,), 0, at),
        Slices("norm.bias", (6,), 0, at),
        Slices("two.weight", (5, 6, 3, 3), 1, at),
    )
    return Units((Group("one.weight", 6, members),))


def batches(count: int = 2, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 2, 7, 7, generator=generator, dtype=torch.float64),
            torch.randint(4, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def stripes(count: int = 256) -> Data:
    """Four classes of noisy 8x8 images, which a small network learns in seconds."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.rand((count, 1, 8, 8), generator=generator)
    for at, label in enumerate(labels.tolist()):
        images[at, 0, 2 * label : 2 * label + 2] += 0.7
    return Data(images / 2, labels, (0.4,), (0.25,))


class Small(nn.Module):
    """A residual network of one block, and a layer without a residual before the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 16, 3, 2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        x = self.bn3(self.conv3(x)).relu()
        return self.last(x.flatten(1))


def trainer(epochs: float = 4, **settings: object) -> Trainer:
    return Trainer(Small(), stripes(), TrainSettings(epochs=epochs, batch=32, **settings))


def removed_shapes(module: nn.Module, masks: Masks) -> dict[str, tuple[int, ...]]:
    """By name of a layer's weight, its shape without the rows and columns that are masked."""
    shapes = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            key = f"{name}.weight"
            whole = masks.get(key, torch.ones(layer.weight.shape, dtype=torch.bool))
            rows = whole.flatten(1).any(1).sum()
            columns = whole.transpose(0, 1).flatten(1).any(1).sum()
            shapes[key] = (int(rows), int(columns), *whole.shape[2:])
    return shapes


def small_channels() -> Units:
    """The channels of ``Small``: of the residual stream, between its layers, and of the last."""
    eight, sixteen = torch.arange(8), torch.arange(16)
    stream = (
        Slices("stem.weight", (8, 1, 3, 3), 0, eight),
        Slices("norm.weight", (8,), 0, eight),
        Slices("norm.bias", (8,), 0, eight),
        Slices("conv1.weight", (8, 8, 3, 3), 1, eight),
        Slices("conv2.weight", (8, 8, 3, 3), 0, eight),
        Slices("bn2.weight", (8,), 0, eight),
        Slices("bn2.bias", (8,), 0, eight),
        Slices("conv3.weight", (16, 8, 3, 3), 1, eight),
    )
    inner = (
        Slices("conv1.weight", (8, 8, 3, 3), 0, eight),
        Slices("bn1.weight", (8,), 0, eight),
        Slices("bn1.bias", (8,), 0, eight),
        Slices("conv2.weight", (8, 8, 3, 3), 1, eight),
    )
    last = (
        Slices("conv3.weight", (16, 8, 3, 3), 0, sixteen),
        Slices("bn3.weight", (16,), 0, sixteen),
        Slices("bn3.bias", (16,), 0, sixteen),
        Slices("last.weight", (4, 256), 1, sixteen.repeat_interleave(16)),
    )
    return Units(
        (
            Group("stem.weight", 8, stream),
            Group("conv1.weight", 8, inner),
            Group("conv3.weight", 16, last),
        )
    )


def hand_coupled(module: nn.Module, shape: Sequence[int]) -> Units:
    """In the place of ``channels`` where a test takes ``Small`` and does not wait for an export."""
    assert isinstance(module, Small)
    assert tuple(shape) == (1, 1, 8, 8)
    return small_channels()
