"""Wide ResNet for CIFAR, parameter names of xternalz/WideResNet-pytorch.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016: pre-activation blocks of two 3x3
convolutions, depth 6n + 4. The width is the checkpoint's, so 28-10 stands for every 28-k, k > 1.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import Recipe

# The repository writes both in units of 1/255.
MEAN = tuple(value / 255 for value in (125.3, 123.0, 113.9))
STD = tuple(value / 255 for value in (63.0, 62.1, 66.7))


class Block(nn.Module):
    """BN before each convolution; the 1x1 shortcut reads what the first convolution reads."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = (
            None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        result: Tensor = shortcut + y
        return result


class Stage(nn.Module):
    """``depth`` blocks under the name ``layer``."""

    def __init__(self, inputs: int, outputs: int, depth: int, stride: int) -> None:
        super().__init__()
        first = Block(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y: Tensor = self.layer(x)
        return y


class WideResNet(Network):
    """Three stages of (layers - 4) / 6 blocks, 16, 32 and 64 times ``widen`` channels."""

    def __init__(self, layers: int, widen: int) -> None:
        super().__init__()
        depth = (layers - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, 16 * widen, depth, stride=1)
        self.block2 = Stage(16 * widen, 32 * widen, depth, stride=2)
        self.block3 = Stage(32 * widen, 64 * widen, depth, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1)
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


RECIPES = (Recipe("wide_resnet28_10", partial(WideResNet, 28, 10), (3, 32, 32), MEAN, STD),)
