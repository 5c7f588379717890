"""No criterion: what every criterion has to beat."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.sparsify.units import Batches, Scores, Units


def random(module: nn.Module, units: Units, batches: Batches = (), seed: int = 0) -> Scores:  # noqa: ARG001
    """Numbers in [0, 1) that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.count, generator=generator) for group in units}
