"""A recipe from the file to the row: trained, deployed, gone on with, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunedeploy import checkpoint
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json
from prunedeploy.core.progress import Counted
from prunedeploy.sparsify import recipe
from prunedeploy.sparsify.row import Row

RECIPE = """
network = "resnet8_digits"
[data]
path = "digits"
limit = 256
[train]
epochs = 2
batch = 64
[method]
name = "snap"
sparsity = 0.5
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn")
    monkeypatch.chdir(tmp_path)
    path = Path("small.toml")
    path.write_text(RECIPE)
    return path


class Killed(BaseException):
    pass


def test_a_recipe_gives_a_row_and_its_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sparsify", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "network   resnet8_digits, snap, seed 0" in printed
    assert "files     small.sparsified" in printed
    folder = Path("small.sparsified")
    row = from_json(Row, (folder / "row.json").read_text())
    names = {each.name for each in folder.iterdir()} - {"curves.png"}  # where matplotlib is
    assert names == {"epochs.csv", "recipe.toml", "row.json", "sparse.pt", "trained.json"}
    assert row.outcome.unit_sparsity == pytest.approx(0.5, abs=0.01)
    assert row.outcome.steps == 8
    assert len((folder / "epochs.csv").read_text().splitlines()) == 3
    module = checkpoint.load(folder / "sparse.pt", arch="resnet8_digits").module
    weights = [each for each in module.parameters() if each.dim() > 1]
    zeros = sum(int((each == 0).sum()) for each in weights)
    assert zeros / sum(each.numel() for each in weights) > 0.4
    assert recipe.read(folder / "recipe.toml") == row.recipe == recipe.read(file)


def test_a_row_that_is_there_is_not_computed_again(file: Path) -> None:
    first = recipe.run(file)
    told: list[str] = []
    assert recipe.run(file, progress=told.append) == first
    assert not [line for line in told if "training" in line]


def test_an_interrupted_recipe_goes_on_to_the_same_bits(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = recipe.run(file, "whole").outcome
    with pytest.raises(Killed):
        recipe.run(file, "killed", progress=_kill_in_the_second_epoch)
    assert not (Path("killed") / "row.json").exists()
    assert list(Path("killed").glob("states-*/call-0.pt"))
    assert main(["sparsify", str(file), "-o", "killed", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["outcome"]["state_sha256"] == whole.state_sha256
    assert not list(Path("killed").glob("states-*"))


def _kill_in_the_second_epoch(line: str) -> None:
    if isinstance(line, Counted) and line.done == 2:
        raise Killed


def test_folders_of_other_things_are_left_alone(file: Path) -> None:
    Path("mine").mkdir()
    (Path("mine") / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="no recipe was run in"):
        recipe.run(file, "mine")
    with pytest.raises(UserError, match=r"small.toml is a file: name a folder"):
        recipe.run(file, file)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("small.pt", "give --data images.npz"),
        ("none.toml", "cannot read the recipe none.toml: No such file"),
    ],
)
def test_what_is_no_recipe_is_refused(
    source: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sparsify", source]) == 2
    assert said in capsys.readouterr().err
    assert list(Path().iterdir()) == [file]


def test_a_method_that_does_not_take_an_option(file: Path) -> None:
    chosen = replace(recipe.read(file).method, options={"rounds": 3})
    file.write_text(recipe.to_toml(replace(recipe.read(file), method=chosen)))
    with pytest.raises(UserError, match="the method has no option 'rounds'"):
        recipe.run(file)


@pytest.mark.slow
def test_a_recipe_that_deploys_measures_engines(file: Path) -> None:
    file.write_text(RECIPE + "[deploy]\nbatches = [1]\nrounds = 5\n")
    row = recipe.run(file)
    assert row.deployed is not None
    times = [(each.runtime, each.batch, each.kind) for each in row.deployed.latencies]
    assert times == [(name, 1, "measured") for name in ("dense", "ort", "sparse")]
    state = torch.load("small.sparsified/sparse.pt", weights_only=True)
    assert row.deployed.parameters < sum(each.numel() for each in state.values())


@pytest.mark.slow
def test_a_recipe_that_predicts_measures_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunedeploy.sparsify.deploy.bench", None)
    monkeypatch.setattr("prunedeploy.shrinking.variants._measured", None)
    wanted = '[deploy]\ntarget = "x86-avx512"\npredict = true\nbatches = [1, 64]\n'
    file.write_text(RECIPE + wanted)
    row = recipe.run(file)
    assert row.deployed is not None
    times = [(each.runtime, each.batch, each.kind) for each in row.deployed.latencies]
    assert times == [
        (name, batch, "predicted") for name in ("dense", "ort", "sparse") for batch in (1, 64)
    ]
    fast = {(each.runtime, each.batch): each.milliseconds for each in row.deployed.latencies}
    assert fast["ort", 1] < fast["dense", 1] < fast["dense", 64]
    assert from_json(Row, Path("small.sparsified/row.json").read_text()) == row
