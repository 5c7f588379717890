"""MobileNet v1, parameter names of marvis/pytorch-mobilenet (``model.N.M`` and ``fc``).

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, table 1. RAIVNLab/STR uses the same names. Padding is 1 on both sides, as
there, where the TensorFlow original pads strided layers on the far side only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.models._network import Network
from prunedeploy.models._recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

# (output channels, stride) of each depthwise-separable pair.
PAIRS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)

HEAD = ("final_dense_kernel", "final_dense_bias")


class MobileNetV1(Network):
    """A stem and 13 pairs of a depthwise and a 1x1 convolution.

    ``folded`` leaves the BatchNorms out and gives the convolutions biases, under the same names.
    """

    def __init__(self, folded: bool = False, classes: int = 1000) -> None:
        super().__init__()
        inputs = 32
        self.model = nn.Sequential(nn.Sequential(*_conv(3, inputs, 3, 2, folded=folded)))
        for outputs, stride in PAIRS:
            depthwise = _conv(inputs, inputs, 3, stride, groups=inputs, folded=folded)
            pointwise = _conv(inputs, outputs, 1, folded=folded)
            self.model.append(nn.Sequential(*depthwise, *pointwise))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.model(self.normalize(x))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, folded: bool
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=folded)
    return conv, nn.Identity() if folded else nn.BatchNorm2d(outputs), nn.ReLU()


def from_npz(path: Path) -> MobileNetV1:
    """The network with the BN-folded weights of ``path``, in eval mode.

    Reads ``initial_conv`` (32, 3, 3, 3), ``depthwise_nxn_K`` (C, 1, 3, 3), ``contraction_1x1_K``
    (out, in) for K = 0..12, each with a ``_bias`` (zero where missing), and ``final_dense_kernel``
    (classes, in) with ``final_dense_bias``.

    Raises:
        UserError: an array is missing.
    """
    with np.load(path) as arrays:
        names = ["initial_conv"]
        for index in range(len(PAIRS)):
            names += [f"depthwise_nxn_{index}", f"contraction_1x1_{index}"]
        if missing := [name for name in (*names, *HEAD) if name not in arrays]:
            raise UserError(f"{path} lacks {', '.join(missing)}: give the npz of a MobileNetV1")
        network = MobileNetV1(folded=True, classes=len(arrays["final_dense_kernel"]))
        convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for conv, name in zip(convs, names, strict=True):
            zero = np.zeros(conv.out_channels, np.float32)
            _assign(conv, arrays[name], arrays.get(f"{name}_bias", zero))
        _assign(network.fc, arrays["final_dense_kernel"], arrays["final_dense_bias"])
    return network.eval()


def _assign(layer: nn.Conv2d | nn.Linear, weight: Array, bias: Array) -> None:
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
        layer.bias.copy_(torch.from_numpy(bias))


RECIPES = (Recipe("mobilenet_v1", MobileNetV1, (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD),)
