"""The ``build`` command: an engine, C sources, a device bundle, or engines built elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

import prunedeploy as api
from prunedeploy.cli import show
from prunedeploy.cli.options import Json, Output, Remote, ShapeOption, SshOption, Timeout
from prunedeploy.cli.parse import Shapes, parse_batches, parse_sizes
from prunedeploy.cli.progress import working
from prunedeploy.cli.remote import RemoteMachine, build_there
from prunedeploy.core.text import printable

Tune = Literal["quick", "full", "none"]
Product = Literal["engine", "sources", "bundle", "remote engines"]


@dataclass(frozen=True)
class BuildArguments:
    """The command line, parsed. ``within`` is the largest difference allowed, None for the usual.

    ``inputs`` is a NumPy file of inputs that a device bundle is checked with.
    """

    model: Path
    target: str
    runtime: str
    baseline: Path | None
    batch: tuple[int, ...]
    threads: int
    tune: Tune
    within: float | None
    archive: bool
    inputs: Path | None
    output: Path | None
    shapes: tuple[Shapes, ...]


def build(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="ONNX model; by default the newest result of shrink in this folder.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Machine to build for; `prunedeploy targets` lists them.")
    ] = "host",
    runtime: Annotated[
        str, typer.Option(help="Runtime to build for (ort, sparse, ...), or auto for the fastest.")
    ] = "auto",
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Dense model to compare the speed with; by default the one that shrink wrote.",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="1,8,32", help="Batch sizes that a sparse engine is built for.")
    ] = "",
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            help="Threads that a sparse engine is built for; 0 takes all cores of the target.",
        ),
    ] = 0,
    tune: Annotated[
        Tune, typer.Option(help="How thoroughly to measure the schedules of its layers.")
    ] = "quick",
    within: Annotated[
        float | None,
        typer.Option(
            metavar="1e-6",
            help="Largest difference from the model, relative to the range of an output; 1e-5 by "
            "default.",
        ),
    ] = None,
    emit: Annotated[
        Literal["c"] | None, typer.Option(help="Write C sources instead of an engine.")
    ] = None,
    archive: Annotated[
        bool, typer.Option("--archive", help="Write the device bundle as a .tar.gz.")
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE.npy", help="Inputs that the device bundle is checked with."
        ),
    ] = None,
    shapes: ShapeOption = None,
    remote: Remote = None,
    ssh_option: SshOption = None,
    timeout: Timeout = 3600.0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Build an engine for a machine from an ONNX model.

    An engine for this machine is compared with its model, and refused where it computes something
    else. For another machine the command writes a device bundle, which holds all that is needed to
    build and to measure engines there; with --remote this is done over SSH, and the engines are
    copied back.

    \b
    Examples:
      prunedeploy build
      prunedeploy build resnet56.shrunk.onnx --target host --runtime ort -o engine/
      prunedeploy build resnet50.shrunk.onnx --runtime sparse --batch 1,16
      prunedeploy build bert.shrunk.onnx --shape input_ids=1x64,1x128
      prunedeploy build resnet50.shrunk.onnx --target jetson --archive
    """
    given = BuildArguments(
        model=model or _newest_result(),
        target=target,
        runtime=runtime,
        baseline=baseline,
        batch=parse_batches(batch),
        threads=threads,
        tune=tune,
        within=within,
        archive=archive,
        inputs=inputs,
        output=output,
        shapes=parse_sizes(shapes),
    )
    machine = None
    if remote is not None:
        machine = RemoteMachine(remote, target, tuple(ssh_option or ()), timeout)
    product = _product(given, emit, machine)
    _refuse_options(given, product)
    if product == "sources":
        _write_sources(given, json)
    elif machine is not None:
        build_there(
            *(machine, given.model, output, baseline, given.batch, threads, inputs), json=json
        )
    elif product == "bundle":
        _write_bundle(given, json)
    else:
        _build_here(given, json)


def _newest_result() -> Path:
    from prunedeploy.engines.sources import newest_result

    model = newest_result(Path())
    typer.echo(f"taking {printable(str(model))}, the newest result of shrink here", err=True)
    return model


def _product(
    given: BuildArguments, emit: Literal["c"] | None, machine: RemoteMachine | None
) -> Product:
    """The product that the options ask for."""
    if emit is not None:
        return "sources"
    if machine is not None:
        return "remote engines"
    return "bundle" if given.runtime == "auto" and _is_elsewhere(given.target) else "engine"


def _refuse_options(given: BuildArguments, product: Product) -> None:
    """Refuse options that ``product`` has no use for."""
    if given.within is not None and (product != "engine" or _is_elsewhere(given.target)):
        raise typer.BadParameter("--within is for engines that are built and compared here")
    if product == "sources" and given.runtime not in ("auto", "sparse"):
        raise typer.BadParameter(
            f"{given.runtime} has no C sources: --emit is for --runtime sparse"
        )
    if product == "remote engines" and (given.archive or given.runtime != "auto"):
        raise typer.BadParameter("--remote builds what the machine can have, into a folder")
    if product == "remote engines" and any(given.shapes):
        raise typer.BadParameter("--shape is not for --remote: write the model with lower --shape")
    if product == "engine" and (given.archive or given.inputs is not None):
        raise typer.BadParameter("--archive and --input are for targets that are not at hand")


def _is_elsewhere(target: str) -> bool:
    """True where engines for ``target`` are built on another machine."""
    from prunedeploy import targets

    return targets.why_not_here(targets.by_name(target)) is not None


def _write_sources(given: BuildArguments, json: bool) -> None:
    from prunedeploy.cli.show.engines import print_project

    with working(f"reading {given.model}") as progress:
        folder = api.emit_c(
            *(given.model, given.target, given.output, progress),
            batch=given.batch,
            threads=given.threads,
            tune=given.tune,
            shapes=given.shapes,
        )
    show.emit({"type": "Project", "path": str(folder)}, print_project, json)


def _write_bundle(given: BuildArguments, json: bool) -> None:
    """Write a device bundle; exit status 1 where it lacks something that the target can have."""
    from prunedeploy.cli.arrays import inputs_of
    from prunedeploy.cli.show.machines import print_bundle

    with working(f"reading {given.model}") as progress:
        written = api.write_bundle(
            *(given.model, given.target, given.output, given.baseline, progress),
            batch=given.batch,
            threads=given.threads,
            inputs=inputs_of(given.model, given.inputs),
            archive=given.archive,
            shapes=given.shapes,
        )
    show.emit(written, print_bundle, json)
    raise typer.Exit(1 if written.bundle.missing else 0)


def _build_here(given: BuildArguments, json: bool) -> None:
    from prunedeploy.cli.show.engines import print_engine

    with working(f"reading {given.model}") as progress:
        engine = api.build(
            *(given.model, given.target, given.runtime, given.output, given.baseline, progress),
            batch=given.batch,
            threads=given.threads,
            tune=given.tune,
            shapes=given.shapes,
            within=given.within,
        )
    show.emit(engine, print_engine, json)
