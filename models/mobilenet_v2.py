"""MobileNet v2, parameter names of torchvision.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

# (expansion, output channels, blocks, stride of the first) of each stage.
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 up (absent when ``expansion`` is 1), 3x3 depthwise, linear 1x1 down."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        inner = inputs * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_conv(inputs, inner, 1))
        self.conv.append(_conv(inner, inner, 3, stride, groups=inner))
        self.conv.append(nn.Conv2d(inner, outputs, 1, bias=False))
        self.conv.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class MobileNetV2(Network):
    """A stem, 17 inverted residuals, a 1x1 to 1280 channels, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 32
        self.features = nn.Sequential(_conv(3, inputs, 3, 2))
        for expansion, outputs, blocks, first_stride in STAGES:
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                self.features.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        self.features.append(_conv(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.features(self.normalize(x))
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


RECIPES = (Recipe("mobilenet_v2", MobileNetV2, (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD),)
