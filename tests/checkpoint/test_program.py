"""TorchScript and torch.export: no program runs without trust, the weights are had without."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError
from prunedeploy.inspection.inspect import inspect
from prunedeploy.models import by_name


@pytest.fixture
def no_jit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a program is an error."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a TorchScript program was loaded")

    monkeypatch.setattr(torch.jit, "load", never)
    monkeypatch.setattr(torch._C, "import_ir_module", never)


FORMS = pytest.mark.parametrize(
    "form", [torch.jit.script, lambda n: torch.jit.trace(n, torch.rand(2, 3, 9, 9))]
)


@FORMS
def test_torchscript_trusted(net: nn.Module, same: Callable, tmp_path: Path, form) -> None:
    form(net).save(tmp_path / "net.pt")
    assert same(tmp_path / "net.pt", net, arch=None, trust=True).arch == "torchscript"


@FORMS
@pytest.mark.usefixtures("no_jit")
def test_weights_of_torchscript(net: nn.Module, same: Callable, tmp_path: Path, form) -> None:
    form(net).save(tmp_path / "net.pt")
    named = same(tmp_path / "net.pt", net)  # its weights in the network of a factory
    assert type(named.module).__name__ == "Net"
    with pytest.raises(UserError, match=r"not recognised.*--trust") as caught:
        load(tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    assert inspect(tmp_path / "net.pt").totals.parameters > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("trust", [False, True])
def test_torchscript_of_a_known_network(tmp_path: Path, trust: bool) -> None:
    torch.manual_seed(0)
    resnet = by_name("resnet20").factory().eval()
    torch.jit.trace(resnet, torch.rand(1, 3, 32, 32)).save(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", trust=trust)
    assert (loaded.arch, loaded.input_shape) == ("resnet20", (1, 3, 32, 32))
    assert ("computes the same as resnet20" in loaded.found) == trust
    assert any("its program not run" in line for line in loaded.found) != trust


class Twice(nn.Module):
    """The parameter names of a known network, and another function."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_that_only_looks_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    twice = Twice(by_name("resnet20").factory()).eval()
    image = torch.rand(1, 3, 32, 32)
    torch.jit.trace(twice, image).save(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", trust=True)
    assert loaded.arch == "torchscript"
    with torch.no_grad():
        assert torch.allclose(loaded.module(image), twice(image), atol=1e-6)


class OwnState(nn.Module):
    """Its weights are set by code of its own, which runs while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save(state[0], "marker of __setstate__")


def test_torchscript_that_runs_while_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker of __setstate__"
    torch.jit.script(OwnState().eval()).save(tmp_path / "net.pt")
    marker.unlink(missing_ok=True)
    for call in (load, weights, inspect):
        with pytest.raises(UserError, match=r"net\.pt.*--trust") as caught:
            call(tmp_path / "net.pt")
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert load(tmp_path / "net.pt", trust=True).arch == "torchscript"
    assert marker.exists()  # it was a real one


def test_frozen_torchscript(net: nn.Module, tmp_path: Path) -> None:
    """Its weights are constants of the program, without names."""
    torch.jit.freeze(torch.jit.trace(net, torch.rand(2, 3, 9, 9))).save(tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"no weights.*--trust"):
        load(tmp_path / "net.pt", arch="small_net_of_the_tests:Net")


def test_torchscript_source_that_is_not_python(net: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(net).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data + b"\n%%\n" if info.filename.endswith(".py") else data)
    with pytest.raises(UserError, match=r"b\.pt"):
        load(tmp_path / "b.pt", trust=True)


def test_torchscript_with_classes_of_its_own(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                data = b"\x80\x02c__torch__.torch\nclasses.quantized.Conv2dPackedParams\n)\x81."
            new.writestr(info.filename, data)
    with pytest.raises(UserError, match=r"no weights.*--trust"):
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
