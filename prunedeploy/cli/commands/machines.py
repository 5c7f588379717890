"""The command about machines: ``targets``."""

from __future__ import annotations

from typing import Annotated

import typer

from prunedeploy.cli.options import Json
from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit


def targets(
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with status 1 where a runtime of this machine fails."),
    ] = False,
    json: Json = False,
) -> None:
    """List the machines to build for, and check this one.

    Every runtime of this machine computes something small: PASS, or FAIL with the reason.

    \b
    Example:
      prunedeploy targets
    """
    from prunedeploy.cli.show.machines import Targets, print_targets
    from prunedeploy.engines.self_check import self_check
    from prunedeploy.targets import targets as rows

    with working("checking the runtimes of this machine"):
        listing = Targets(rows(), self_check())
    emit(listing, print_targets, json)
    raise typer.Exit(1 if strict and any(x.status == "FAIL" for x in listing.checks) else 0)
