"""The commands that serve engines: ``serve``, ``loadtest`` and ``serve-repo``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import prunedeploy as api
from prunedeploy.cli.options import Json, Output, Threads
from prunedeploy.cli.parse import parse_batches, parse_engines
from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit
from prunedeploy.cli.tables import say

if TYPE_CHECKING:
    from prunedeploy.serving.http.model import ServedModel

MaxBatch = Annotated[
    int,
    typer.Option(
        min=0,
        help="Samples of several requests in one run; 0 for what the engine was built for, 1 to "
        "compute every request by itself.",
    ),
]
MaxDelay = Annotated[
    float,
    typer.Option(min=0, help="Milliseconds that a request waits for others while nothing runs."),
]


def serve(
    engines: Annotated[
        list[str],
        typer.Argument(metavar="ENGINE...", help="Folders that build wrote, or NAME=ENGINE."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for one that is free.")
    ] = 8000,
    threads: Threads = 0,
    sessions: Annotated[int, typer.Option(min=1, help="Runs of an engine at a time.")] = 1,
    max_batch: MaxBatch = 0,
    max_delay_ms: MaxDelay = 0.0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Pending requests of a model; others get status 503.")
    ] = 256,
    max_body_mb: Annotated[
        float, typer.Option(help="MiB of a request at most; larger ones get status 413.")
    ] = 64.0,
    drain_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds after SIGTERM in which requests are still taken."),
    ] = 1.0,
    json: Json = False,
) -> None:
    """Serve engines over HTTP, with the V2 (Open Inference) protocol.

    Requests that wait are computed together, where samples do not depend on each other. Answers
    that were begun are finished on SIGTERM and Ctrl-C. There is no authentication: put it behind
    a proxy where strangers can reach it.

    \b
    Examples:
      prunedeploy serve resnet56.host.sparse.engine
      prunedeploy serve small=a.engine large=b.engine --host 0.0.0.0 --port 8080
    """
    from prunedeploy.cli.show.serving import Started, print_started
    from prunedeploy.serving.http.options import ServeOptions

    options = ServeOptions(
        *(threads, sessions, max_batch, max_delay_ms, max_queue, max_body_mb, drain_s)
    )

    def started(url: str, models: Sequence[ServedModel]) -> None:
        emit(Started.of(url, models), print_started, json)
        sys.stdout.flush()  # somebody may wait for the URL

    given = parse_engines(engines)
    api.serve(given, host=host, port=port, options=options, started=started)


def loadtest(
    server: Annotated[
        str,
        typer.Argument(metavar="URL|ENGINE", help="Server, or an engine to start one with."),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model of the server, where it has several.")
    ] = "",
    engine: Annotated[
        Path | None,
        typer.Option(metavar="ENGINE", help="Compare answers of the server with this engine's."),
    ] = None,
    clients: Annotated[
        str, typer.Option(metavar="1,8,50", help="Numbers of clients at a time, one after another.")
    ] = "1,8,50",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long each number of clients sends requests.")
    ] = 10.0,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a request.")] = 1,
    form: Annotated[
        Literal["binary", "json"], typer.Option("--format", help="How tensors are sent.")
    ] = "binary",
    inputs: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE.npy", help="Inputs to send; random by default."),
    ] = None,
    threads: Threads = 0,
    max_batch: MaxBatch = 0,
    max_delay_ms: MaxDelay = 0.0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Measure a server of the V2 protocol: throughput and latency, every answer checked.

    Each client sends its next request when it has the answer to the last one. Answers are compared
    with the engine's own, or with those that the server gave before, one at a time. The exit status
    is 1 where one is wrong or lost. --threads, --max-batch and --max-delay-ms are those of serve,
    for an engine.

    \b
    Examples:
      prunedeploy loadtest resnet56.host.sparse.engine
      prunedeploy loadtest http://127.0.0.1:8000 --model resnet56 --clients 1,16
    """
    from prunedeploy.cli.show.serving import print_load
    from prunedeploy.core.arrays import read_arrays
    from prunedeploy.core.files import atomic_path, check_writable, to_json
    from prunedeploy.serving.http.options import ServeOptions

    if output is not None:
        check_writable(output)
    options = ServeOptions(threads=threads, max_batch=max_batch, max_delay_ms=max_delay_ms)
    with working(f"asking {server}") as progress:
        result = api.loadtest(
            server,
            model=model,
            engine=engine,
            clients=parse_batches(clients),
            seconds=seconds,
            batch=batch,
            form=form,
            inputs=None if inputs is None else read_arrays(inputs),
            options=options,
            progress=progress,
        )
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(result))
    emit(result, print_load, json)
    raise typer.Exit(0 if result.passed else 1)


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
    emit({"type": "Repository", "path": str(path)}, lambda x: say(x["path"]), json)
