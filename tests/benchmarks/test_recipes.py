"""The recipes of the benchmarks state grids."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from prunedeploy.sweep import grid

RECIPES = sorted((Path(__file__).parents[2] / "benchmarks" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_states_rows(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'checkpoint = "(.+?)"', file.read_text()):
        Path(name).touch()
    rows = grid.read(file)
    assert any(row.method.name == "dense" for row in rows)
    assert f"prunedeploy sweep benchmarks/recipes/{file.name}" in file.read_text()
    assert len({os.fspath(row.data.path) for row in rows}) == 1
