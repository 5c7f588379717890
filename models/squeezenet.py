"""SqueezeNet 1.0 and 1.1, parameter names of torchvision.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size", 2016, table 1; version 1.1 pools earlier and has a smaller stem.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.models._network import Network
from prunedeploy.models._recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

# (squeeze, expand) widths of the fire modules; None is a 3x3 max pooling.
V1_0 = (
    *((16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256)),
    *(None, (64, 256)),
)
V1_1 = (
    *((16, 64), (16, 64), None, (32, 128), (32, 128), None),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)


class Fire(nn.Module):
    """A 1x1 squeeze read by a 1x1 and a 3x3, whose outputs are concatenated."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 2 * expand, H, W)."""
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


class SqueezeNet(Network):
    """A stem with a kernel of ``kernel``, fire modules, and a 1x1 convolution as classifier."""

    def __init__(self, stem: int, kernel: int, fires: tuple[tuple[int, int] | None, ...]) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, stem, kernel, stride=2), nn.ReLU(), _pool())
        inputs = stem
        for fire in fires:
            self.features.append(Fire(inputs, *fire) if fire else _pool())
            inputs = 2 * fire[1] if fire else inputs
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(inputs, 1000, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.classifier(self.features(self.normalize(x)))
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


RECIPES = (
    Recipe(
        "squeezenet1_0",
        partial(SqueezeNet, 96, 7, V1_0),
        (3, 224, 224),
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
    Recipe(
        "squeezenet1_1",
        partial(SqueezeNet, 64, 3, V1_1),
        (3, 224, 224),
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
)
