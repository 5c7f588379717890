"""The command ``sparsify`` for a checkpoint: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refused import Folder
from sparse_nets import Small

from prunedeploy.cli import main

ARCH = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 4),
    )
"""


def arch(folder: Path) -> str:
    """A factory in a module of the test's own name: a process imports each name once."""
    return f"own_{folder.name}.py:make"


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Folder:
    monkeypatch.chdir(tmp_path)
    Path(arch(tmp_path).partition(":")[0]).write_text(ARCH)
    space: dict[str, object] = {}
    exec(ARCH, space)
    torch.manual_seed(0)
    torch.save(space["make"]().state_dict(), "net.pt")  # type: ignore[operator]
    random = np.random.default_rng(0)
    images = random.random((60, 3, 6, 6), np.float32)
    np.savez("images.npz", images=images, labels=random.integers(0, 4, 60))
    return Folder(tmp_path, capsys)


def test_a_sparse_checkpoint_that_shrink_reads(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "net.pt",
        "--arch",
        arch(Path().absolute()),
        "--data",
        "images.npz",
        "--density",
        "0.25",
    ]
    assert main(["sparsify", *given, "--distill", "2", "--finetune", "1"]) == 0
    shown = capsys.readouterr().out
    assert "60 samples are classified as before" in " ".join(shown.split())
    assert f"next: prunedeploy optimize net.sparse.pt --arch {given[2]}" in shown
    state = torch.load("net.sparse.pt", weights_only=True)["state_dict"]
    assert int(state["2.weight"].count_nonzero()) == 144
    small = [
        "shrink",
        "net.sparse.pt",
        "--arch",
        arch(Path().absolute()),
        "--input-shape",
        "1,3,6,6",
    ]
    assert main([*small, "-o", "small.onnx"]) == 0
    capsys.readouterr()
    assert main(["sparsify", *given, "-o", "again.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 60


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "give --data images.npz"),
        (["--data", "none.npz", "--density", "0.5"], "no such file"),
        (["--data", "images.npz"], "one of --density, --flops and --speedup"),
        (["--data", "images.npz", "--density", "0.5", "--method", "magic"], "magnitude, wanda"),
        (["--data", "images.npz", "--density", "2"], "makes no sense"),
        (["--data", "images.npz", "--density", "0.5", "-o", "net.pt"], "is the input"),
        (["--data", "images.npz", "--density", "0.5", "-o", "no/x.pt"], "not a folder"),
        (["--data", "images.npz", "--density", "0.5", "--mean", "0.5"], "go together"),
        (["--data", "wrong.npz", "--density", "0.5"], "does not take inputs of 20 x 1 x 6 x 6"),
        (["--data", "images.npz", "--speedup", "2", "--target", "mars"], "mars"),
    ],
)
def test_refusals(folder: Folder, more: list[str], told: str) -> None:
    np.savez("wrong.npz", images=np.zeros((20, 1, 6, 6), np.float32))
    before = sorted(Path().iterdir())
    error = folder.refused("sparsify", "net.pt", "--arch", arch(Path().absolute()), *more)
    assert told in error
    assert sorted(Path().iterdir()) == before


def test_a_recipe_takes_no_options(folder: Folder) -> None:
    Path("recipe.toml").write_text("")
    assert "is a recipe" in folder.refused("sparsify", "recipe.toml", "--density", "0.5")


def test_onnx_is_no_checkpoint(folder: Folder) -> None:
    torch.onnx.export(Small().eval(), (torch.zeros(1, 1, 8, 8),), "net.onnx", verbose=False)
    given = ["net.onnx", "--data", "images.npz", "--density", "0.5"]
    assert "give the checkpoint" in folder.refused("sparsify", *given)
