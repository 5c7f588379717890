"""The commands that run engines: ``bench``, ``run`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import prunedeploy as api
from prunedeploy.cli.options import (
    Json,
    Mean,
    Output,
    Remote,
    ShapeOption,
    SshOption,
    Std,
    Threads,
    Timeout,
)
from prunedeploy.cli.parse import parse_floats, parse_sizes
from prunedeploy.cli.progress import working
from prunedeploy.cli.remote import RemoteMachine, bench_there
from prunedeploy.cli.show import emit
from prunedeploy.core.errors import naming_file


def bench(
    engines: Annotated[
        list[Path], typer.Argument(metavar="ENGINE...", help="Folders that build wrote.")
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Dense model or engine to compare with; by default that of the first engine.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Number of inputs in a batch.")] = 1,
    threads: Threads = 0,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Labelled images to measure the accuracy on."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed runs of every engine, in turn with the others.")
    ] = 100,
    shapes: ShapeOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time every step of the engines.")
    ] = False,
    remote: Remote = None,
    target: Annotated[
        str | None, typer.Option(help="Target that the remote machine is; known for a bundle.")
    ] = None,
    ssh_option: SshOption = None,
    timeout: Timeout = 3600.0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Time engines side by side with their dense baseline.

    An engine whose outputs are not those of the baseline is refused, not timed. -o keeps every
    sample and its environment as JSON, for `prunedeploy report`. With --remote a model or a device
    bundle is built and timed on another machine. An engine for several sizes is timed at each.

    \b
    Examples:
      prunedeploy bench resnet56.host.ort --data cifar10_test1k.npz -o result.json
      prunedeploy bench resnet56.shrunk.onnx --target jetson --remote user@nano
    """
    from prunedeploy.cli.show.measurements import print_benchmark
    from prunedeploy.core.files import atomic_path, check_writable, to_json

    if output is not None:
        check_writable(output)
    if remote is not None:
        if data is not None or profile or shapes:
            raise typer.BadParameter(
                "--data, --profile and --shape are for engines of this machine"
            )
        machine = RemoteMachine(remote, target, tuple(ssh_option or ()), timeout)
        bench_there(machine, engines, output, baseline, batch, threads, rounds, json=json)
        return
    with working("measuring") as progress:
        result = api.bench(
            engines,
            baseline,
            batch=batch,
            threads=threads,
            data=data,
            mean=None if mean is None else parse_floats(mean),
            std=None if std is None else parse_floats(std),
            rounds=rounds,
            progress=progress,
            profile=profile,
            shapes=parse_sizes(shapes) if shapes else None,
        )
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(result))
    emit(result, print_benchmark, json)


def run(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Folder that build wrote.")],
    inputs: Annotated[
        Path,
        typer.Argument(metavar="INPUT.npy", help="The input, or a .npz file of several by name."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT.npy", help="The output; .npz holds several by name."
        ),
    ],
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Compute an engine's outputs for a NumPy file.

    \b
    Example:
      prunedeploy run resnet56.host.ort images.npy -o logits.npy
    """
    from prunedeploy.cli import arrays
    from prunedeploy.cli.show.engines import print_outputs

    arrays.check_output(output)
    with working(f"running {engine}"), api.open(engine, threads=threads) as session:
        feeds = arrays.read(inputs, session.inputs)
        with naming_file(engine):
            results = session.run(feeds)
    arrays.write(output, results)
    emit(arrays.describe(output, results), print_outputs, json)


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json...", help="Files that `-o` wrote.")
    ],
    output: Output = None,
    json: Json = False,
) -> None:
    """Put results into one report, as Markdown or HTML.

    It takes the JSON files that shrink, bench and predict wrote.

    \b
    Example:
      prunedeploy report result.json -o report.html
    """
    with working("reading results"):
        text = api.report(results, output)
    emit({"type": "Report", "markdown": text}, lambda _: typer.echo(text, nl=False), json)
