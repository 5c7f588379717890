"""Sweeps on one machine: rows in files, what is missing runs, what failed is named."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from swept import computed, write_grid

from prunedeploy import UserError
from prunedeploy.cli import main
from prunedeploy.core.files import from_json
from prunedeploy.sparsify.row import Row
from prunedeploy.sweep.sweep import SweepResult, sweep

pytest.importorskip("scipy", reason="SciPy computes the intervals")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The grid, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return sweep(write_grid(folder), folder / "out")


def test_every_row_has_a_file(whole: SweepResult) -> None:
    assert (whole.failed, whole.computed) == ((), 6)
    assert [(row.recipe.seed, row.recipe.method.name) for row in whole.rows] == [
        (seed, name) for seed in (0, 1) for name in ("dense", "random_u", "gradual")
    ]
    for row in whole.rows:
        file = whole.folder / "rows" / f"{row.key}.json"
        assert from_json(Row, file.read_text()) == row
    assert whole.report.read_text().startswith("<!doctype html>")


def test_what_is_there_is_not_computed_again(whole: SweepResult) -> None:
    file = whole.folder / "rows" / f"{whole.rows[4].key}.json"
    kept = file.read_text()
    file.unlink()
    again = sweep(whole.folder / "sweep.toml", whole.folder)
    assert again.computed == 1
    assert computed(again.rows) == computed(whole.rows)
    file.write_text(kept)


@pytest.mark.slow  # sweeps a second time
def test_two_at_once_give_the_same_rows(whole: SweepResult, tmp_path: Path) -> None:
    both = sweep(whole.folder / "sweep.toml", tmp_path / "out", jobs=2)
    assert computed(both.rows) == computed(whole.rows)


@pytest.mark.slow  # sweeps a second and a third time
def test_a_sweep_that_was_killed_goes_on(whole: SweepResult, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-m", "prunedeploy", "sweep", str(whole.folder / "sweep.toml"), "-o", str(out)]
    running = subprocess.Popen([sys.executable, "-P", *words], stdout=subprocess.DEVNULL)
    while not list((out / "rows").glob("*.json")) and running.poll() is None:
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    done = len(list((out / "rows").glob("*.json")))
    assert 0 < done < 6
    again = sweep(whole.folder / "sweep.toml", out)
    assert again.computed <= 6 - done
    assert computed(again.rows) == computed(whole.rows)


def test_a_row_that_fails_is_named_and_the_others_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_grid(tmp_path)
    text = grid.read_text().replace("sparsity = 0.9", "sparsity = 0.9\noptions = { times = 5 }")
    grid.write_text(text.replace("seed = [0, 1]", "seed = 0"))
    assert main(["sweep", str(grid), "-o", str(tmp_path / "out"), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in result["failed"]] == ["resnet8_digits random_u 0.9 seed 0"]
    assert "the method has no option 'times'" in result["failed"][0]["reason"]
    assert [row["recipe"]["method"]["name"] for row in result["rows"]] == ["dense", "gradual"]


def test_folders_and_locks(whole: SweepResult, tmp_path: Path) -> None:
    grid = whole.folder / "sweep.toml"
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="is a folder that no sweep wrote"):
        sweep(grid, tmp_path)
    with pytest.raises(UserError, match="is a file: name a folder"):
        sweep(grid, tmp_path / "thesis.txt")
    with (whole.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another sweep runs in"):
            sweep(grid, whole.folder)


def test_a_damaged_row_says_what_to_do(whole: SweepResult) -> None:
    file = whole.folder / "rows" / f"{whole.rows[0].key}.json"
    kept = file.read_text()
    file.write_text("{")
    with pytest.raises(UserError, match="remove it, and it is computed"):
        sweep(whole.folder / "sweep.toml", whole.folder)
    file.write_text(kept)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.toml"], "cannot read the recipe none.toml"),
        (["grid.toml", "-j", "0"], "Invalid value for '-j'"),
        (["grid.toml", "-j", "2", "--ray", "auto"], "--jobs is for this machine"),
    ],
)
def test_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_rows_that_measure_have_latencies(tmp_path: Path) -> None:
    grid = write_grid(tmp_path)
    grid.write_text(grid.read_text() + "[deploy]\nbatches = [1]\nrounds = 5\nseeds = [0]\n")
    done = sweep(grid, tmp_path / "out")
    assert done.failed == ()
    assert [row.deployed is not None for row in done.rows] == [True] * 3 + [False] * 3
    assert done.report.read_text().count("<circle") == 3
