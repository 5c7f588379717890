"""When to prune: as soon as the weights move slowly (Rachwan et al., EarlyCroP, ICML 2022).

The squared distance from the start, D_t = |theta_t - theta_0|^2, is taken once an epoch; training
leaves its rich phase where D grows by little in an epoch, relative to the first one's growth. The
paper's text says so; its code takes the distance, not squared, from the weights after epoch 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.units import layer_weights


class Drift:
    """How much the weights of all layers have moved, by epochs."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._start = module, _flat(module)
        self._distances = [0.0]
        self.changes: list[float] = []

    def update(self) -> float:
        """At the end of an epoch: |D_t - D_(t-1)| / D_1; the first one is 1."""
        self._distances.append(float((_flat(self._module) - self._start).square().sum()))
        growth = abs(self._distances[-1] - self._distances[-2])
        self.changes.append(growth / self._distances[1] if self._distances[1] else 0.0)
        return self.changes[-1]


@torch.no_grad()
def _flat(module: nn.Module) -> Tensor:
    return torch.cat([weight.double().flatten() for _, weight in layer_weights(module)])
