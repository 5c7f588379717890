"""ResNet and Wide ResNet for ImageNet, parameter names of torchvision.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (stride in the 3x3 of the
bottleneck, as torchvision has it); Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.
The CIFAR variants have the same names and a stem of one 3x3 convolution with no pooling.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Recipe,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, planes: int, stride: int, widen: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes * widen, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes * widen)
        self.conv2 = nn.Conv2d(planes * widen, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; ``widen`` widens the 3x3 alone."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, planes: int, stride: int, widen: int) -> None:
        super().__init__()
        inner, outputs = planes * widen, planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


BlockType = type[BasicBlock] | type[Bottleneck]


class ResNet(Network):
    """Four stages of blocks; ``small`` puts the CIFAR stem in front."""

    def __init__(
        self,
        block: BlockType,
        depths: tuple[int, ...],
        widen: int = 1,
        small: bool = False,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.conv1 = (
            nn.Conv2d(3, 64, 3, padding=1, bias=False)
            if small
            else nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, depths[0], 1, widen)
        self.layer2 = _stage(block, 64 * wide, 128, depths[1], 2, widen)
        self.layer3 = _stage(block, 128 * wide, 256, depths[2], 2, widen)
        self.layer4 = _stage(block, 256 * wide, 512, depths[3], 2, widen)
        self.fc = nn.Linear(512 * wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(self.normalize(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(
    block: BlockType, inputs: int, planes: int, depth: int, stride: int, widen: int
) -> nn.Sequential:
    first = block(inputs, planes, stride, widen)
    outputs = planes * block.expansion
    return nn.Sequential(first, *(block(outputs, planes, 1, widen) for _ in range(depth - 1)))


def _imagenet(name: str, block: BlockType, depths: tuple[int, ...], widen: int = 1) -> Recipe:
    factory = partial(ResNet, block, depths, widen)
    return Recipe(name, factory, (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD)


def _cifar(name: str, block: BlockType, depths: tuple[int, ...]) -> Recipe:
    factory = partial(ResNet, block, depths, small=True, classes=10)
    return Recipe(name, factory, (3, 32, 32), CIFAR10_MEAN, CIFAR10_STD)


RECIPES = (
    _imagenet("resnet18", BasicBlock, (2, 2, 2, 2)),
    _imagenet("resnet34", BasicBlock, (3, 4, 6, 3)),
    _imagenet("resnet50", Bottleneck, (3, 4, 6, 3)),
    _imagenet("resnet101", Bottleneck, (3, 4, 23, 3)),
    _imagenet("wide_resnet50_2", Bottleneck, (3, 4, 6, 3), widen=2),
    _cifar("resnet18_cifar", BasicBlock, (2, 2, 2, 2)),
    _cifar("resnet34_cifar", BasicBlock, (3, 4, 6, 3)),
    _cifar("resnet50_cifar", Bottleneck, (3, 4, 6, 3)),
)
