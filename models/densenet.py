"""DenseNet-121, parameter names of torchvision.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, table 1.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

GROWTH, BOTTLENECK, STEM = 32, 4, 64


class DenseLayer(nn.Module):
    """BN, 1x1, BN, 3x3; its new channels are put behind those it read."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        inner = BOTTLENECK * GROWTH
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return torch.cat((x, y), 1)


class Transition(nn.Module):
    """Halves channels and resolution between two dense blocks."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C / 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(Network):
    """Dense blocks of ``depths`` layers with transitions between them."""

    def __init__(self, depths: tuple[int, ...] = (6, 12, 24, 16)) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, STEM, 7, 2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(STEM))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        width = STEM
        for stage, depth in enumerate(depths, start=1):
            if stage > 1:
                self.features.add_module(f"transition{stage - 1}", Transition(width))
                width //= 2
            block = nn.Sequential()
            for index in range(1, depth + 1):
                block.add_module(f"denselayer{index}", DenseLayer(width))
                width += GROWTH
            self.features.add_module(f"denseblock{stage}", block)
        self.features.add_module(f"norm{len(depths) + 1}", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, 1000)
        self.register_load_state_dict_pre_hook(_rename_old)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.features(self.normalize(x)))
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def modern_name(name: str) -> str:
    """``...denselayer1.norm.1.weight``, as in torchvision's published files, without the dot."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _rename_old(_: nn.Module, state: dict[str, Any], *__: object) -> None:
    for name in list(state):
        state[modern_name(name)] = state.pop(name)


RECIPES = (
    Recipe("densenet121", DenseNet, (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD, modern_name),
)
