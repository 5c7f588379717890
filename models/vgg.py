"""VGG, with and without BatchNorm, parameter names of torchvision; and the CIFAR form.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, configurations A, D and E. The CIFAR form has the same ``features`` and one linear
layer named ``classifier``, as in kuangliu/pytorch-cifar and VITA-Group/Structure-LTH.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.core.errors import UserError
from prunedeploy.models._network import Network
from prunedeploy.models._recipe import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Recipe,
)

# Convolutions of each of the five stages; a stage ends in a 2x2 max pooling.
DEPTHS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """``layers`` counts convolutions and linear layers; ``small`` is the CIFAR form."""

    def __init__(self, layers: int, norm: bool, small: bool = False) -> None:
        super().__init__()
        self.features = _features(DEPTHS[layers], norm)
        self.classifier: nn.Linear | nn.Sequential = (
            nn.Linear(WIDTHS[-1], 10)
            if small
            else nn.Sequential(
                nn.Linear(WIDTHS[-1] * 7 * 7, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 1000),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.features(self.normalize(x))
        x = F.adaptive_avg_pool2d(x, self._pooled_side(x.shape[1]))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits

    def _pooled_side(self, channels: int) -> int:
        """Side of the map that the first linear layer reads: 7 as published, 1 on CIFAR."""
        first = next(layer for layer in self.classifier.modules() if isinstance(layer, nn.Linear))
        side = math.isqrt(first.in_features // channels)
        if channels * side * side != first.in_features:
            raise UserError(
                f"the first linear layer reads {first.in_features} features, not a square map of"
                f" the {channels} channels before it: load the file from before its shrinking"
            )
        return side


def _features(depths: tuple[int, ...], norm: bool) -> nn.Sequential:
    layers, inputs = nn.Sequential(), 3
    for depth, width in zip(depths, WIDTHS, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _imagenet(name: str, layers: int, norm: bool) -> Recipe:
    return Recipe(name, partial(VGG, layers, norm), (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD)


def _cifar(name: str, layers: int, norm: bool) -> Recipe:
    factory = partial(VGG, layers, norm, small=True)
    return Recipe(name, factory, (3, 32, 32), CIFAR10_MEAN, CIFAR10_STD)


RECIPES = (
    _imagenet("vgg11", 11, norm=False),
    _imagenet("vgg11_bn", 11, norm=True),
    _imagenet("vgg16", 16, norm=False),
    _imagenet("vgg16_bn", 16, norm=True),
    _imagenet("vgg19", 19, norm=False),
    _imagenet("vgg19_bn", 19, norm=True),
    _cifar("vgg16_bn_cifar", 16, norm=True),
)
