"""The command that puts engines into a server."""

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
    from prunedeploy.cli import show

    with working(f"reading {engine}"):
        place = api.serve_repo(engine, output, name=name, backend=backend, mount=mount)
    show.result({"type": "Repository", "path": str(place)}, lambda x: typer.echo(x["path"]), json)
