"""Wide ResNet-32-2 for CIFAR of the lottery-ticket literature, parameter names of GraSP.

Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020:
the ResNet-32 of He et al. (depth 6n + 2, not the 6n + 4 of Wide ResNet) at twice its width, with
a 1x1 convolution in the shortcuts. VITA-Group/Structure-LTH trains its WRN-32-2 under these names.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe


class Block(nn.Module):
    """Two 3x3 convolutions; ``downsample`` and ``bn3`` are the shortcut of a wider block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        self.bn3: nn.Module = nn.Identity()
        if inputs != outputs:
            # One layer in a Sequential, because the name is downsample.0.
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.bn3(self.downsample(x)))


class GraspResNet(Network):
    """Three stages of (layers - 2) / 6 blocks, 16, 32 and 64 times ``widen`` channels."""

    def __init__(self, layers: int, widen: int) -> None:
        super().__init__()
        depth, width = (layers - 2) // 6, 16 * widen
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depth, stride=1)
        self.layer2 = _stage(width, 2 * width, depth, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depth, stride=2)
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.bn(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))


RECIPES = (
    Recipe("wide_resnet32_2", partial(GraspResNet, 32, 2), (3, 32, 32), CIFAR10_MEAN, CIFAR10_STD),
)
