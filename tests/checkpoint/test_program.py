"""TorchScript and torch.export: what computes is loaded, what does more is refused."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.errors import UserError
from prunedeploy.models import by_name


@pytest.mark.parametrize(
    "form", [torch.jit.script, lambda n: torch.jit.trace(n, torch.rand(2, 3, 9, 9))]
)
def test_torchscript(net: nn.Module, same: Callable, tmp_path: Path, form: Callable) -> None:
    form(net).save(tmp_path / "net.pt")
    assert same(tmp_path / "net.pt", net, arch=None).arch == "torchscript"
    named = same(tmp_path / "net.pt", net)  # its weights in the network of a factory
    assert type(named.module).__name__ == "Net"


def test_torchscript_of_a_known_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = by_name("resnet20").factory().eval()
    torch.jit.trace(resnet, torch.rand(1, 3, 32, 32)).save(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt")
    assert (loaded.arch, loaded.input_shape) == ("resnet20", (1, 3, 32, 32))
    assert "computes the same as resnet20" in loaded.found


class Twice(nn.Module):
    """The parameter names of a known network, and another function."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * 2


def test_torchscript_that_only_looks_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    twice = Twice(by_name("resnet20").factory()).eval()
    image = torch.rand(1, 3, 32, 32)
    torch.jit.trace(twice, image).save(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt")
    assert loaded.arch == "torchscript"
    with torch.no_grad():
        assert torch.allclose(loaded.module(image), twice(image), atol=1e-6)


SAVES = """
def saves(self, x: Tensor) -> Tensor:
    torch.save(x, "{marker}")
    return x + self.weight
"""
MAPS = """
def maps(self, x: Tensor) -> Tensor:
    y = torch.from_file("{marker}", True, 4)
    return x + y.sum()
"""


@pytest.mark.parametrize(("name", "source"), [("saves", SAVES), ("maps", MAPS)])
def test_torchscript_that_touches_files(name: str, source: str, tmp_path: Path) -> None:
    marker = tmp_path / "MARKER"
    module = torch.jit.script(nn.Linear(2, 2))
    module.define(source.format(marker=marker))
    module.save(str(tmp_path / "net.pt"))
    with pytest.raises(UserError, match=r"torch\.(save|from_file).*--trust"):
        load(tmp_path / "net.pt")
    assert not marker.exists()
    getattr(torch.jit.load(tmp_path / "net.pt"), name)(torch.ones(2))
    assert marker.exists()  # it was a real one
    assert load(tmp_path / "net.pt", trust=True).arch == "torchscript"


def test_torchscript_source_that_is_not_python(net: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(net).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data + b"\n%%\n" if info.filename.endswith(".py") else data)
    with pytest.raises(UserError, match=r"b\.pt"):
        load(tmp_path / "b.pt")


def test_torchscript_with_classes_of_its_own(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                data = b"\x80\x02c__torch__.torch\nclasses.quantized.Conv2dPackedParams\n)\x81."
            new.writestr(info.filename, data)
    with pytest.raises(UserError, match=r"torch\.classes.*--trust"):
        load(tmp_path / "b.pt")


@pytest.fixture
def exported(net: nn.Module, tmp_path: Path) -> Path:
    program = torch.export.export(net, (torch.rand(2, 3, 9, 9),))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_weights_of_torch_export_without_its_program(
    net: nn.Module, same: Callable, exported: Path
) -> None:
    loaded = same(exported, net)
    assert loaded.found[0] == "torch.export archive"
    assert type(loaded.module).__name__ == "Net"


def test_program_of_torch_export_needs_trust(
    net: nn.Module, same: Callable, exported: Path
) -> None:
    with pytest.raises(UserError, match="--trust"):
        load(exported)
    loaded = same(exported, net, arch=None, trust=True)
    assert (loaded.arch, loaded.input_shape) == ("torch.export", (2, 3, 9, 9))


def test_torch_export_of_a_known_network(tmp_path: Path) -> None:
    resnet = by_name("resnet20").factory().eval()
    program = torch.export.export(resnet, (torch.rand(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert load(tmp_path / "net.pt2").arch == "resnet20"
    tensors, _ = weights(tmp_path / "net.pt2")
    assert torch.equal(tensors["conv1.weight"], resnet.conv1.weight)


def test_torch_export_would_run_code(net: nn.Module, exported: Path, tmp_path: Path) -> None:
    """Why trust is asked for: an expression of the file is evaluated by torch.export.load."""
    marker = tmp_path / "MARKER"
    gadget = f"open({str(marker)!r}, 'w')"
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(net, (torch.rand(2, 3, 9, 9),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "dynamic.pt2")
    with (
        zipfile.ZipFile(tmp_path / "dynamic.pt2") as old,
        zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new,
    ):
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("models/model.json"):
                data = re.sub(rb'"expr_str": "[^"]*"', f'"expr_str": "{gadget}"'.encode(), data)
            new.writestr(info.filename, data)
    same_weights, _ = weights(tmp_path / "bad.pt2")
    assert torch.equal(same_weights["fc.weight"], net.fc.weight)
    assert not marker.exists()
    with pytest.raises(UserError):
        load(tmp_path / "bad.pt2", trust=True)
    assert marker.exists()
