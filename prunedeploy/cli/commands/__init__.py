"""The commands: each parses, calls one function of the Python API, and prints the result."""

from __future__ import annotations

from typing import Annotated

import typer

from prunedeploy.cli.commands.building import build
from prunedeploy.cli.commands.checkpoints import inspect, shrink
from prunedeploy.cli.commands.machines import targets
from prunedeploy.cli.commands.measuring import bench, report, run
from prunedeploy.cli.commands.models import lower, predict
from prunedeploy.cli.commands.optimizing import optimize
from prunedeploy.cli.commands.serving import loadtest, serve, serve_repo
from prunedeploy.cli.commands.sparsifying import sparsify
from prunedeploy.cli.commands.sweeping import sweep
from prunedeploy.cli.logs import with_logs

COMMANDS = (  # in the order in which help lists them
    optimize,
    inspect,
    shrink,
    lower,
    build,
    predict,
    bench,
    run,
    report,
    sparsify,
    sweep,
    serve,
    loadtest,
    serve_repo,
    targets,
)

app = typer.Typer(
    name="prunedeploy",
    rich_markup_mode=None,  # rich alone would take longer to import than all of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from prunedeploy import __version__

        typer.echo(f"prunedeploy {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def prunedeploy(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Make a trained sparse network run fast without changing what it computes.

    \b
    From a checkpoint to the fastest engine and a report:
      prunedeploy optimize checkpoint.pt

    \b
    The same, step by step:
      prunedeploy shrink checkpoint.pt          writes checkpoint.shrunk.onnx
      prunedeploy build                         builds an engine for this machine
      prunedeploy bench ENGINE -o result.json   times it beside the dense network
      prunedeploy report result.json            prints the result as Markdown
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


for _command in COMMANDS:
    app.command()(with_logs(_command))
