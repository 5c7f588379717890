"""Folding against the layers themselves, written down from their papers and public code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError


class StrConv(nn.Conv2d):
    """RAIVNLab/STR: sparseThreshold of shape (1, 1), sign(W) * relu(|W| - sigmoid(s))."""

    def __init__(self, old: nn.Conv2d, threshold: float) -> None:
        super().__init__(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding,
            bias=old.bias is not None,
        )  # fmt: skip
        self.weight, self.bias = old.weight, old.bias
        self.sparseThreshold = nn.Parameter(torch.full((1, 1), threshold))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.sign() * F.relu(self.weight.abs() - self.sparseThreshold.sigmoid())
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def test_str(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    linear = nn.Conv2d(8, 5, 1)  # STR keeps the classifier as a convolution
    with torch.no_grad():
        linear.weight.copy_(net.fc.weight[:, :, None, None])
        linear.bias.copy_(net.fc.bias)
    net.conv1, net.conv2 = StrConv(net.conv1, -1.0), StrConv(net.conv2, -3200.0)
    convolution = StrConv(linear, -2.0)
    weight = convolution.weight[:, :, 0, 0]
    weight = weight.sign() * F.relu(weight.abs() - convolution.sparseThreshold.sigmoid())
    state = net.state_dict()
    state |= {f"fc.{name}": tensor for name, tensor in convolution.state_dict().items()}
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 99, "arch": "Net", "state_dict": state, "best_acc1": 74.3}, tmp_path / "n")
    with torch.no_grad():
        net.fc.weight.copy_(weight)
    found = same(tmp_path / "n", net).found
    assert "soft threshold applied to 3 layers (STR)" in found
    assert (weights(tmp_path / "n")[0]["conv1.weight"] == 0).float().mean() > 0.1


@pytest.mark.parametrize("per_channel", [False, True])
def test_str_bn(net: nn.Module, same: Callable, tmp_path: Path, per_channel: bool) -> None:
    threshold = torch.linspace(-2, 1, 6) if per_channel else torch.tensor([[-0.5]])
    torch.save(net.state_dict() | {"bn1.sparseThreshold": threshold}, tmp_path / "net")
    with torch.no_grad():
        gamma = net.bn1.weight
        gamma.copy_(gamma.sign() * F.relu(gamma.abs() - threshold.sigmoid().view(-1)))
        net.bn1.bias.mul_(gamma)
    assert (net.bn1.weight == 0).any()
    assert "soft threshold applied to 1 BatchNorms (STR-BN)" in same(tmp_path / "net", net).found


class Gated(nn.Module):
    """youzhonghui/gate-decorator-pruning: bn(x) * g, then channels masked away."""

    def __init__(self, bn: nn.BatchNorm2d, mask: Tensor | None) -> None:
        super().__init__()
        channels = bn.num_features
        self.bn = bn
        self.g = nn.Parameter(torch.rand(1, channels, 1, 1))
        self.register_buffer("area", torch.ones(1))
        self.register_buffer("score", torch.rand(channels))
        if mask is not None:
            self.register_buffer("bn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x) * self.g
        return x * self.bn_mask.view(1, -1, 1, 1) if hasattr(self, "bn_mask") else x


def test_gates(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    net.bn1 = Gated(net.bn1, torch.tensor([1.0, 0, 1, 1, 0, 1]))
    net.bn2 = Gated(net.bn2, None)
    torch.save(net.state_dict(), tmp_path / "net")
    assert "2 channel gates folded (GateDecorators)" in same(tmp_path / "net", net).found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spectral_norm_is_refused(net: nn.Module, tmp_path: Path) -> None:
    nn.utils.spectral_norm(net.fc)
    torch.save(net.state_dict(), tmp_path / "net")
    with pytest.raises(UserError, match="spectral"):
        load(tmp_path / "net")
