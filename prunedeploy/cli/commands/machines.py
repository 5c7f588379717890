"""The commands about machines and servers: ``targets`` and ``serve-repo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prunedeploy.cli.options import Json
from prunedeploy.cli.progress import working


def serve_repo(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="REPO")],
    name: Annotated[str, typer.Option(help="Of the model; the engine's.")] = "",
    backend: Annotated[
        Literal["auto", "python", "onnxruntime"],
        typer.Option(help="What runs a sparse engine."),
    ] = "auto",
    mount: Annotated[
        str, typer.Option(metavar="PATH", help="Where the server sees REPO, if elsewhere.")
    ] = "",
    json: Json = False,
) -> None:
    """Put an engine into a model repository of NVIDIA's Triton server.

    \b
    Example:
      prunedeploy serve-repo resnet56.host.sparse.engine -o repo/
      tritonserver --model-repository repo/
    """
    import prunedeploy as api
    from prunedeploy.cli.show import emit

    with working(f"reading {engine}"):
        place = api.serve_repo(engine, output, name=name, backend=backend, mount=mount)
    emit({"type": "Repository", "path": str(place)}, lambda x: typer.echo(x["path"]), json)


def targets(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit status 1 where a runtime of the host fails.")
    ] = False,
    json: Json = False,
) -> None:
    """The machines to build for; does this one work?

    For the host every runtime computes something small for real: PASS, or FAIL and the reason.

    \b
    Example:
      prunedeploy targets
    """
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.machines import Targets, print_targets
    from prunedeploy.engines.self_check import self_check
    from prunedeploy.targets import targets as rows

    with working("checking the runtimes of this machine"):
        found = Targets(rows(), self_check())
    emit(found, print_targets, json)
    raise typer.Exit(1 if strict and any(x.status == "FAIL" for x in found.checks) else 0)
