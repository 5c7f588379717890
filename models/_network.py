"""The base of every reference network, with the optional normalisation inside the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Per-channel ``(x - mean) / std`` with both as buffers of shape (C,).

    Checkpoints of the robust-training and lottery-ticket repositories carry their preprocessing
    as ``normalize.mean`` and ``normalize.std``; their inputs are pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


class Network(nn.Module):
    """An image classifier, (N, C, H, W) to (N, classes).

    ``normalize`` is the identity unless the checkpoint brings its own (``Recipe.build`` sets it).
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize: nn.Module = nn.Identity()
