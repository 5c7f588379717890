"""Network slimming's channel selection: widened readers compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from prunedeploy.checkpoint import load
from prunedeploy.core.errors import UserError

# Eric-mingjie/rethinking-network-pruning: a pre-activation block, selection behind the BatchNorm.
SOURCE = """
import torch
from torch import nn

class Select(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.indexes = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x[:, self.indexes.nonzero().flatten()]

class Block(nn.Module):
    def __init__(self, select, kept, inner):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(6)
        if select:
            self.select = Select(6)
        self.conv1 = nn.Conv2d(kept, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, 6, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.bn1(x)
        y = self.select(y) if hasattr(self, "select") else y
        return x + self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(y)))))

class Net(nn.Module):
    def __init__(self, select=False, kept=(6, 6, 6), inner=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.layer1 = nn.Sequential(*(Block(select, k, inner) for k in kept[:2]))
        self.bn = nn.BatchNorm2d(6)
        if select:
            self.select = Select(6)
        self.fc = nn.Linear(kept[2], 4)

    def forward(self, x):
        x = self.bn(self.layer1(self.stem(x)))
        x = self.select(x) if hasattr(self, "select") else x
        return self.fc(torch.relu(x).mean((2, 3)))

def slim():
    return Net(True, (4, 6, 3), 2)

def plain():
    return Net()
"""


@pytest.fixture
def slim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    (tmp_path / "slim_net_of_the_tests.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import slim_net_of_the_tests as module  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net: nn.Module = module.slim().eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-0.5, 1)
    net.layer1[0].select.indexes.data = Tensor([1, 0, 1, 1, 0, 1])
    net.layer1[1].select.indexes.data = torch.ones(6)
    net.select.indexes.data = Tensor([0, 1, 0, 0, 1, 1])
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 1.5)
    return net


def test_selections_are_widened(slim: nn.Module, same: Callable, tmp_path: Path) -> None:
    torch.save({"cfg": [4, 2], "state_dict": slim.state_dict()}, tmp_path / "net")
    loaded = same(tmp_path / "net", slim, arch="slim_net_of_the_tests:plain")
    assert loaded.module.layer1[0].conv1.weight.shape == (2, 6, 1, 1)
    assert any(line.startswith("3 channel selections") for line in loaded.found)


def test_order_survives_pruning(slim: nn.Module, same: Callable, tmp_path: Path) -> None:
    """Masked weights are at the end of their layers, and the reader is still found."""
    prune.random_unstructured(slim.layer1[0].conv1, "weight", 0.3)
    torch.save(slim.state_dict(), tmp_path / "net")
    same(tmp_path / "net", slim, arch="slim_net_of_the_tests:plain")


def test_network_with_selections_takes_them(
    slim: nn.Module, same: Callable, tmp_path: Path
) -> None:
    torch.save(slim.state_dict(), tmp_path / "net")
    loaded = same(tmp_path / "net", slim, arch="slim_net_of_the_tests:slim")
    assert loaded.module.layer1[0].conv1.weight.shape == (2, 4, 1, 1)


def test_selection_without_a_reader_is_refused(slim: nn.Module, tmp_path: Path) -> None:
    slim.layer1[0].select.indexes.data = Tensor([1, 0, 0, 0, 0, 1])
    torch.save(slim.state_dict(), tmp_path / "net")
    with pytest.raises(UserError, match=r"layer1\.0\.select\.indexes selects 2 of 6"):
        load(tmp_path / "net", arch="slim_net_of_the_tests:plain")
