"""Modules of the current folder are found by code of the folder, and by nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import current_folder, load
from prunedeploy.core.errors import UserError

NET = """
from torch import nn
import part_of_the_folder


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = part_of_the_folder.layer()

    def forward(self, x):
        import late_part_of_the_folder
        return late_part_of_the_folder.twice(self.fc(x))
"""
PARTS = {
    "net_of_the_folder": NET,
    "part_of_the_folder": "from torch import nn\ndef layer():\n    return nn.Linear(3, 2)\n",
    "late_part_of_the_folder": "def twice(x):\n    return 2 * x\n",
    "trap_of_the_folder": "raise AssertionError('nobody asked for this')\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder that is not on sys.path, as for the command."""
    for name, text in PARTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    before = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = before
    for name in PARTS:
        sys.modules.pop(name, None)


def test_factory_and_what_it_imports(folder: Path) -> None:
    path = list(sys.path)
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    module = load(folder / "net", arch="net_of_the_folder:Net").module
    assert module(torch.ones(1, 3)).tolist() == [[8, 8]]  # with an import of its own, late
    assert sys.path == path


def test_others_do_not_find_them(folder: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    load(folder / "net", arch="net_of_the_folder:Net")
    for name in ("trap_of_the_folder", "late_part_of_the_folder"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
        assert importlib.util.find_spec(name) is None
    with current_folder.asked(), pytest.raises(ModuleNotFoundError):
        import trap_of_the_folder  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize("zip_format", [True, False])
def test_classes_of_a_trusted_file(folder: Path, zip_format: bool) -> None:
    with current_folder.asked():
        sys.path.insert(0, str(folder))
        net: nn.Module = importlib.import_module("net_of_the_folder").Net()
        sys.path.remove(str(folder))
    torch.save(net, folder / "net", _use_new_zipfile_serialization=zip_format)
    for name in PARTS:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="--trust"):
        load(folder / "net")
    loaded = load(folder / "net", trust=True)
    assert type(loaded.module).__module__ == "net_of_the_folder"
    assert torch.equal(loaded.module(torch.ones(1, 3)), 2 * net.fc(torch.ones(1, 3)))


def test_a_folder_without_code_does_not_hide_a_package(folder: Path) -> None:
    (folder / "wave").mkdir()
    (folder / "net_of_the_folder.py").write_text(NET + "\nimport wave\nassert wave.open\n")
    sys.modules.pop("wave", None)
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    load(folder / "net", arch="net_of_the_folder:Net")


def test_packages(folder: Path) -> None:
    (folder / "package_of_the_folder").mkdir()
    (folder / "package_of_the_folder" / "nets.py").write_text(NET)
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    module = load(folder / "net", arch="package_of_the_folder.nets:Net").module
    assert module(torch.ones(1, 3)).tolist() == [[8, 8]]


def test_a_factory_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path, from elsewhere, in a package or not: what it imports lies beside it."""
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    package = folder / "package_with_a_factory"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner_of_the_folder.py").write_text("from .sibling import Net\n")
    (package / "sibling.py").write_text(NET)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match="cannot import net_of_the_folder"):
        load(folder / "net", arch="net_of_the_folder:Net")
    absolute = f"{package}/inner_of_the_folder.py:Net"
    for arch in ("../net_of_the_folder.py:Net", absolute):
        loaded = load(folder / "net", arch=arch)
        assert loaded.arch == arch
        assert loaded.module(torch.ones(1, 3)).tolist() == [[8, 8]]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("trap_of_the_folder")


def test_a_file_that_is_not_there_or_called_like_a_library(folder: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, folder / "net")
    with pytest.raises(UserError, match=r"there is no file nets\.py"):
        load(folder / "net", arch="nets.py:Net")
    (folder / "torch.py").write_text(NET)
    with pytest.raises(UserError, match="give the file another name"):
        load(folder / "net", arch="torch.py:Net")
