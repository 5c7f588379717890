"""Soft thresholds: W' = sign(W) relu(|W| - g(s)), s trained (STR), for weights or gamma.

Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity", ICML 2020. They
choose s at the start and weight decay by trial, and get what sparsity comes. Here one offset is
added to every s, found by bisection, so that the sparsity is the wanted one, while the differences
between layers stay learned. A layer keeps its largest weight. g is the sigmoid for weights, as in
the paper, and exp for gamma, which starts at 1: no sigmoid could reach it. At a threshold of 1, exp
is about a hundred times as steep as the sigmoid is at thresholds of weights, so that s would run
away from one layer to the next; its gradient is divided by as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LARGEST = 0.999  # of the largest weight of a layer: a threshold that leaves it
WIDE = 60.0  # exp(-60) is 0, and exp(60) or sigmoid(60) above every weight
HALVINGS = 40
SLOW = 0.01  # of the gradient of s behind exp


class SoftThreshold(nn.Module):
    """The parametrization; ``offset`` is one tensor for all layers."""

    def __init__(self, start: float, offset: Tensor, g: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._g = g
        self.s = nn.Parameter(torch.tensor(start))
        self._offset = (offset,)  # shared, and no part of the state

    def threshold(self, weight: Tensor) -> Tensor:
        """Weights up to this are zero."""
        largest = LARGEST * weight.detach().abs().max()
        return self._g(self.s + self._offset[0]).minimum(largest)

    def forward(self, weight: Tensor) -> Tensor:
        """The thresholded weight."""
        return weight.sign() * (weight.abs() - self.threshold(weight)).relu()


class _Shift(nn.Module):
    """beta = gamma' beta^, so that a channel with gamma' = 0 is zero."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._norm = (norm,)  # no submodule of its own parametrization

    def forward(self, shift: Tensor) -> Tensor:
        gamma: Tensor = self._norm[0].weight  # type: ignore[assignment]
        return gamma * shift


class SoftThresholds:
    """A trained threshold on the ``weight`` of each layer.

    Args:
        layers: convolutions, linear layers, or BatchNorms, whose shift then scales with gamma, too.
        start: s at the start.
    """

    def __init__(self, layers: Sequence[nn.Module], start: float) -> None:
        self.layers = tuple(layers)
        self.offset = torch.zeros(())
        self._thresholds = [
            SoftThreshold(start, self.offset, _slow_exp if _is_norm(layer) else torch.sigmoid)
            for layer in self.layers
        ]
        for layer, threshold in zip(self.layers, self._thresholds, strict=True):
            if _is_norm(layer):
                with torch.no_grad():  # beta^ = beta / gamma
                    gamma: Tensor = layer.weight  # type: ignore[assignment]
                    layer.bias.div_(torch.where(gamma == 0, 1, gamma))  # type: ignore[operator]
            parametrize.register_parametrization(layer, "weight", threshold)
            if _is_norm(layer):
                parametrize.register_parametrization(layer, "bias", _Shift(layer), unsafe=True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every s."""
        return [each.s for each in self._thresholds]

    @property
    def values(self) -> list[float]:
        """Every s as a number."""
        return [each.s.item() for each in self._thresholds]

    def alive(self) -> list[Tensor]:
        """By layer, where the thresholded weight is not zero."""
        masks = []
        for layer, threshold in zip(self.layers, self._thresholds, strict=True):
            weight: Tensor = layer.parametrizations.weight.original  # type: ignore[union-attr,assignment]
            masks.append(weight.detach().abs() > threshold.threshold(weight).detach())
        return masks

    @torch.no_grad()
    def solve(self, sparsity: Callable[[], float], low: float, high: float) -> float:
        """Set the offset so that ``sparsity()``, which grows with it, is in [low, high].

        It is zero where the trained thresholds do that by themselves. Gives the sparsity reached.
        """
        natural = self._at(0.0, sparsity)
        if low <= natural <= high:
            return natural
        wanted = low if natural < low else high
        down, up = -max(self.values) - WIDE, -min(self.values) + WIDE
        for _ in range(HALVINGS):
            middle = (down + up) / 2
            down, up = (middle, up) if self._at(middle, sparsity) < wanted else (down, middle)
        nearest = min((down, up), key=lambda each: abs(self._at(each, sparsity) - wanted))
        return self._at(nearest, sparsity)

    def fold(self) -> None:
        """Leave the thresholded weights as plain ones."""
        for layer in self.layers:
            if _is_norm(layer):
                parametrize.remove_parametrizations(layer, "bias")
            parametrize.remove_parametrizations(layer, "weight")

    def _at(self, offset: float, sparsity: Callable[[], float]) -> float:
        self.offset.fill_(offset)
        return sparsity()


def start_of(end: float, weight_decay: float, rates: float, momentum: float) -> float:
    """The s that weight decay alone takes to ``end``; ``rates`` is the sum of learning rates.

    ln(s_start / s_end) = weight_decay * rates / (1 - momentum), from s' = -wd * lr / (1 - mu) * s.

    Example:
        >>> round(start_of(-10, 5e-4, 500, 0.9), 2)
        -121.82
    """
    return end * math.exp(weight_decay * rates / (1 - momentum))


def _slow_exp(s: Tensor) -> Tensor:
    """exp(s), with ``SLOW`` of its derivative."""
    return torch.exp(SLOW * s + (1 - SLOW) * s.detach())


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)
