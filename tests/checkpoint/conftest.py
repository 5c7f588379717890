"""A small network as a user would have it: in a module of its own, named by ``--arch``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import Checkpoint, load

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def parallel():
    return nn.Sequential(Net())


def broken():
    raise ValueError("no such width")


number = 3
"""
ARCH = "small_net_of_the_tests:Net"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the network's module lies in."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "small_net_of_the_tests.py").write_text(SOURCE)
    return folder


@pytest.fixture
def net(source: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network with random weights and statistics; its module can be imported."""
    monkeypatch.syspath_prepend(source)
    module = importlib.import_module("small_net_of_the_tests")
    torch.manual_seed(0)
    network: nn.Module = module.Net().eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-0.5, 1)
    for layer in (network.bn1, network.bn2):
        layer.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def sample() -> torch.Tensor:
    return torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


Same = Callable[..., Checkpoint]


@pytest.fixture
def same(sample: torch.Tensor) -> Same:
    """Load a file and compare what it computes with a network."""

    def check(path: Path, expected: nn.Module, atol: float = 1e-6, **options: object) -> Checkpoint:
        options.setdefault("arch", ARCH)
        loaded = load(path, **options)  # type: ignore[arg-type]
        assert not loaded.module.training
        tensors = loaded.module.state_dict().values()
        floats = {t.dtype for t in tensors if t.is_floating_point()}
        assert len(floats) == 1
        dtype = floats.pop()
        assert dtype in (torch.float32, torch.float64)
        with torch.no_grad():
            found, wanted = loaded.module(sample.to(dtype)), expected.to(dtype)(sample.to(dtype))
        assert torch.allclose(found, wanted, atol=atol, rtol=1e-5)
        assert wanted.std() > 1e-3  # else anything would be the same
        return loaded

    return check


@pytest.fixture
def masks(net: nn.Module) -> dict[str, torch.Tensor]:
    """Half of every weight matrix and kernel, drawn by chance, by the parameter's name."""
    random = torch.Generator().manual_seed(2)
    return {
        name: (torch.rand(weight.shape, generator=random) < 0.5).float()
        for name, weight in net.named_parameters()
        if weight.dim() > 1
    }
