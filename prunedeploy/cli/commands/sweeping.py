"""The ``sweep`` command: a grid of recipes, on this machine or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunedeploy.cli.options import Json
from prunedeploy.cli.progress import working


def sweep(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE.toml", help="A recipe in which keys may have lists of values."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder to write; by default RECIPE.sweep."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, help="Trainings at once on this machine.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS", help="Run on this Ray cluster; auto is the one running here."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train and measure all rows of a grid that are missing, and report them.

    A row is a function of its recipe, the data and the version, and has a file of its own,
    rows/KEY.json: a sweep that was interrupted goes on where it was. First all networks are
    trained, then each measurement has its machine for itself. The exit status is 1 where a row
    failed.

    \b
    Examples:
      prunedeploy sweep grid.toml -j 2 -o study/
      prunedeploy sweep grid.toml --ray auto -o study/
    """
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.sweeps import print_sweep
    from prunedeploy.sweep.sweep import sweep as run

    if ray is not None and jobs != 1:
        raise typer.BadParameter("--jobs is for this machine, --ray for a cluster: leave one out")
    with working(f"reading {recipe}") as progress:
        result = run(recipe, output, jobs=jobs, ray=ray, progress=progress)
    emit(result, print_sweep, json)
    if result.failed:
        raise typer.Exit(1)
