"""Factories of unusual style: what they hide, print, raise and give, and whose names differ."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load
from prunedeploy.core.errors import UserError

MODULE = "unusual_factories_of_the_tests"
SOURCE = """
import argparse
import sys
import torch
from torch import nn
from small_net_of_the_tests import Net


def hiding(**attributes):
    class Hiding(Net):
        def __init__(self):
            super().__init__()
            vars(self).update(attributes)
    return Hiding


class Modules(Net):
    def __init__(self):
        super().__init__()
        self.modules = [self.conv1, self.bn1]

    def forward(self, x):
        for layer in self.modules:
            x = layer(x)
        x = self.bn2(self.conv2(x.relu())).relu()
        return self.fc(x.mean((2, 3)))


Children = hiding(children=[1], parameters={"width": 6}, buffers=(), named_modules=[])
Named = hiding(type="small", float=32, state_dict={}, apply=1)
Flag = hiding(train=False)


class OwnTrain(Net):
    def train(self, mode=True):
        raise RuntimeError("not now")


class OwnLoading(Net):
    def load_state_dict(self, path):
        super().load_state_dict(torch.load(path))


def in_a_tuple():
    return Net(), {"width": 6}


def in_a_dict():
    return {"net": Net(), "optimizer": None}


instance = Net()


def two():
    return Net(), Net()


def nothing():
    Net()


def prints():
    print("made")
    return Net()


def raises():
    raise ValueError("one\\ntwo")


def leaves():
    argparse.ArgumentParser().parse_args(["--none-of-these"])


def scripted():
    return torch.jit.script(Net())


def of_a_width(width):
    return Net()


def tied():
    net = Net()
    net.head = net.fc
    return net


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Net()

    def forward(self, x):
        return self.backbone(x)


class WrappedTwice(Wrapped):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(Net())
"""


@pytest.fixture
def saved(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> Path:
    """The plain network's weights; the factories can be imported."""
    (tmp_path / f"{MODULE}.py").write_bytes(b"\xef\xbb\xbf" + SOURCE.encode())
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop(MODULE, None)
    importlib.import_module(MODULE)
    torch.save(net.state_dict(), tmp_path / "net")
    return tmp_path / "net"


UNDERSTOOD = (
    *("Modules", "Children", "Named", "OwnTrain", "OwnLoading", "in_a_tuple", "in_a_dict"),
    *("instance", "prints", "tied", "Wrapped", "WrappedTwice"),
)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_understood(net, same, saved: Path, name: str, capfd) -> None:
    loaded = same(saved, net, arch=f"{MODULE}:{name}")
    assert capfd.readouterr().out == ""
    taken = [line for line in loaded.found if "the one network in the" in line]
    assert bool(taken) == name.startswith("in_a")


REFUSED = {
    "two": "it gave 2 networks",
    "nothing": "it gave a NoneType",
    "raises": "ValueError: one",
    "leaves": "SystemExit: 2",
    "scripted": "TorchScript program",
    "of_a_width": "without arguments",
    "Flag": "attribute train in the place of the method",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(saved: Path, name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]) as caught:
        load(saved, arch=f"{MODULE}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod.", "net.", "backbone."])
@pytest.mark.parametrize("name", ["Wrapped", "WrappedTwice", "Modules"])
def test_prefixes_of_the_file_and_of_the_network(
    net, same, saved: Path, prefix: str, name: str
) -> None:
    state: dict[str, Tensor] = {f"{prefix}{key}": x for key, x in net.state_dict().items()}
    torch.save(state, saved)
    same(saved, net, arch=f"{MODULE}:{name}")
