"""Small torch networks with dead channels, each with one difficulty of the way back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kill(layer: nn.Module, rows: list[int], norm: nn.Module | None = None) -> None:
    """Output channels at a constant: zero weights, and a bias or beta that is not zero."""
    with torch.no_grad():
        layer.weight[rows] = 0
        if norm is not None:
            norm.weight[rows] = 0
            norm.bias[rows] = torch.linspace(0.3, 0.9, len(rows), dtype=norm.bias.dtype)
        elif layer.bias is not None:
            layer.bias[rows] = torch.linspace(0.3, 0.9, len(rows), dtype=layer.bias.dtype)


def settle(network: nn.Module) -> nn.Module:
    """Random statistics and affine parameters, float64, eval mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=(1 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.double().eval()


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            extra = y.shape[1] - x.shape[1]
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))
        return F.relu(x + y)


class Residual(nn.Module):
    """Residual sums, an option-A shortcut, padded convolutions that meet constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.one, self.two = Block(8, 8, 1), Block(8, 16, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(F.relu(self.norm(self.stem(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def residual() -> nn.Module:
    network = settle(Residual())
    kill(network.one.conv1, [0, 3, 5], network.one.bn1)
    kill(network.two.conv1, [1, 2, 7, 8], network.two.bn1)
    return network


def mobile() -> nn.Module:
    """1x1, depthwise, 1x1, with BatchNorm."""
    network = nn.Sequential(
        nn.Conv2d(3, 12, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        nn.Conv2d(12, 7, 1, bias=False),
        nn.BatchNorm2d(7),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 4),
    )
    settle(network)
    kill(network[3], [0, 4, 9], network[4])
    return network


class Vgg(nn.Module):
    """Flattened maps into a linear layer; with ``fixed`` the code names their number."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
        self.c, self.d = nn.Linear(10 * 5 * 5, 12), nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        x = x.view(-1, 250) if self.fixed else x.flatten(1)
        return self.d(F.relu(self.c(x)))


def vgg(fixed: bool = False) -> nn.Module:
    network = settle(Vgg(fixed))
    kill(network.a, [1, 2])
    kill(network.b, [0, 4, 9])
    kill(network.c, [3, 4, 5])
    return network


class Transformer(nn.Module):
    """One encoder block with hard-coded heads and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm1(x)).view(-1, 7, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = F.softmax(q @ k.transpose(-1, -2) / 2, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, 7, 8))
        x = x + self.down(F.silu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def transformer() -> nn.Module:
    network = settle(Transformer())
    kill(network.up, [0, 1, 5, 11, 19])
    with torch.no_grad():
        network.qkv.weight.view(3, 2, 4, 8)[2, 1] = 0  # the values of the second head
        network.qkv.bias.view(3, 2, 4)[2, 1] = 0
    return network


SHAPES = {
    residual: (1, 3, 12, 12),
    mobile: (1, 3, 9, 9),
    vgg: (1, 3, 9, 9),
    transformer: (1, 7, 6),
}
