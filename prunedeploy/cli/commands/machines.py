"""The commands about machines and servers: ``targets`` and ``serve-repo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import prunedeploy as api
from prunedeploy.cli.options import Json
from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit


def serve_repo(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Folder that build wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="REPO", help="The repository.")],
    name: Annotated[
        str, typer.Option(help="Name of the model; by default that of the engine.")
    ] = "",
    backend: Annotated[
        Literal["auto", "python", "onnxruntime"],
        typer.Option(help="Triton backend that runs a sparse engine."),
    ] = "auto",
    mount: Annotated[
        str,
        typer.Option(metavar="PATH", help="Path at which the server sees REPO, if it is another."),
    ] = "",
    json: Json = False,
) -> None:
    """Put an engine into a repository of the Triton server.

    \b
    Example:
      prunedeploy serve-repo resnet56.host.sparse.engine -o repo/
      tritonserver --model-repository repo/
    """
    with working(f"reading {engine}"):
        path = api.serve_repo(engine, output, name=name, backend=backend, mount=mount)
    emit({"type": "Repository", "path": str(path)}, lambda x: typer.echo(x["path"]), json)


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
