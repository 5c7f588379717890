"""ResNet-8 to -110 for CIFAR-10, parameter names of akamaster/pytorch_resnet_cifar10.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2: depth 6n + 2,
three stages of 16, 32 and 64 channels, shortcuts of option A (no weights).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.core.errors import UserError
from prunedeploy.models._network import Network
from prunedeploy.models._recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.stride == 1 else option_a(x, y.shape[1])
        return F.relu(y + shortcut)


def option_a(x: Tensor, channels: int) -> Tensor:
    """Every second pixel of ``x``, with zero channels in equal number before and behind.

    Raises:
        UserError: ``channels`` exceeds those of ``x`` by an odd or negative number.
    """
    extra = channels - x.shape[1]
    if extra < 0 or extra % 2:
        raise UserError(
            f"an option-A shortcut cannot take {x.shape[1]} channels to {channels}: it pads evenly"
            " on both sides; load the file from before its residual channels were removed"
        )
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))


class CifarResNet(Network):
    """Three stages of ``depth`` blocks, for images of ``inputs`` channels."""

    def __init__(self, depth: int, inputs: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, depth, stride=1)
        self.layer2 = _stage(16, 32, depth, stride=2)
        self.layer3 = _stage(32, 64, depth, stride=2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))


def _recipe(name: str, depth: int) -> Recipe:
    # The published networks were trained with ImageNet's mean and deviation.
    factory = partial(CifarResNet, depth)
    return Recipe(name, factory, (3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)


RECIPES = (
    _recipe("resnet8", 1),
    _recipe("resnet20", 3),
    _recipe("resnet32", 5),
    _recipe("resnet44", 7),
    _recipe("resnet56", 9),
    _recipe("resnet110", 18),
    # scikit-learn's digits: 8x8 pixels, one channel
    Recipe("resnet8_digits", partial(CifarResNet, 1, 1), (1, 8, 8), (0.3,), (0.38,)),
)
