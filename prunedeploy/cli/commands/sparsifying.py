"""The ``sparsify`` command: from a dense network to a sparse one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunedeploy.cli.options import Json
from prunedeploy.cli.progress import working

RECIPE = ".toml"


def sparsify(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE.toml", help="Says the network, the data, the method and the machine."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder to write; by default RECIPE.sparsified."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a network sparse, shrink it, build engines of it and measure them.

    A recipe is carried out where it was interrupted, and not at all where it is done. The folder
    has sparse.pt, which are plain weights with zeros, epochs.csv, curves.png and row.json, and
    small.onnx with its engines where the recipe deploys.

    \b
    Example:
      prunedeploy sparsify recipe.toml -o digits/
    """
    if source.suffix.lower() != RECIPE:
        raise typer.BadParameter(f"{source} is no recipe: name a file that ends in {RECIPE}")
    _carry_out(source, output, json)


def _carry_out(source: Path, output: Path | None, json: bool) -> None:
    """Train by a recipe."""
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.sparsified import print_row
    from prunedeploy.sparsify import recipe

    folder = Path(output or recipe.folder_of(source))
    with working(f"reading {source}") as progress:
        row = recipe.run(source, folder, progress=progress)
    emit(row, lambda done: print_row(done, folder), json)
