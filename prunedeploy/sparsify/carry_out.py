"""A recipe carried out in a folder: train, deploy, record."""

from __future__ import annotations

from pathlib import Path

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.core.log import logged
from prunedeploy.engines.request import Progress
from prunedeploy.sparsify.data import Splits, load
from prunedeploy.sparsify.recipe import DataSource, Recipe, row_key, to_toml
from prunedeploy.sparsify.row import Row, Trained
from prunedeploy.sparsify.training import WEIGHTS, train

ROW, RECIPE = "row.json", "recipe.toml"


def carry_out(recipe: Recipe, folder: Path, progress: Progress | None = None) -> Row:
    """Do what is missing in ``folder`` of the recipe's row; see ``recipe.run``."""
    progress = logged(progress)
    _take(folder, recipe)
    progress(f"reading {recipe.data.path}")
    splits = splits_of(recipe.source)
    key = row_key(recipe, splits.sha256)
    if (folder / ROW).is_file():
        row = from_json(Row, (folder / ROW).read_text())
        if row.key == key:
            return row
    done = train(recipe, splits, folder, progress)
    row = finish(recipe, splits, done, folder, folder, progress)
    with atomic_path(folder / ROW) as file:
        file.write_text(to_json(row))
    return row


def finish(
    recipe: Recipe,
    splits: Splits,
    done: Trained,
    weights: Path,
    folder: Path,
    progress: Progress,
) -> Row:
    """The row of a training whose files are in ``weights``: deployed in ``folder`` and measured."""
    deployed = None
    if recipe.deploy is not None:
        from prunedeploy.sparsify.deploy import deploy

        deployed = deploy(recipe, weights / WEIGHTS, splits.sample, folder, progress)
    return Row(
        *(row_key(recipe, splits.sha256), recipe, splits.sha256, prunedeploy.__version__),
        *(done.outcome, done.cost, deployed),
    )


def splits_of(source: DataSource) -> Splits:
    """The data that a recipe names, read."""
    return load(
        source.path,
        source.test or None,
        hold_out=source.hold_out,
        limit=source.limit,
        size=source.size,
        mean=source.mean or None,
        std=source.std or None,
    )


def _take(folder: Path, recipe: Recipe) -> None:
    """Make the folder, or take one that an earlier run began.

    Raises:
        UserError: there is something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
        raise UserError(f"{folder} is a folder that no recipe was run in: name another one")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / RECIPE) as file:
        file.write_text(to_toml(recipe))
