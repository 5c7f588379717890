"""Nodes go by the names of their layers."""

from __future__ import annotations

import torch
from torch import nn

from prunedeploy.shrinking.export import to_model


class Shared(nn.Module):
    """A layer that is called twice, one that is called once, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.once(self.twice(torch.relu(self.twice(x))))
        return self.head(y.mean((2, 3)))


def test_nodes_go_by_their_layers() -> None:
    names = [str(node.name) for node in to_model(Shared().eval(), (1, 3, 8, 8)).graph]
    assert {"once", "head"} <= set(names)
    assert not any(name.startswith("twice") for name in names)  # which of both would it be
    assert len(set(names)) == len(names)
