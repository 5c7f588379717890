"""The commands: each parses, calls one function of the Python API, and prints the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from prunedeploy.cli import onnx_commands, serving_commands
from prunedeploy.cli.options import (
    Arch,
    Json,
    Mask,
    Mean,
    Output,
    Remote,
    SshOption,
    Std,
    Threads,
    Timeout,
    Trust,
    WeightSet,
)
from prunedeploy.cli.parse import (
    parse_align,
    parse_batches,
    parse_floats,
    parse_ranges,
    parse_shape,
)
from prunedeploy.cli.progress import working

app = typer.Typer(
    name="prunedeploy",
    add_completion=False,
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make a trained sparse checkpoint as fast as the hardware allows, outputs unchanged.

    \b
    The main job:
      prunedeploy shrink checkpoint.pt      -> checkpoint.shrunk.onnx
      prunedeploy build                     -> an engine for this machine
      prunedeploy bench ENGINE -o result.json
      prunedeploy report result.json
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def inspect(
    source: Annotated[Path, typer.Argument(metavar="CKPT|MODEL")],
    arch: Arch = None,
    mask: Mask = None,
    weights: WeightSet = None,
    trust: Trust = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Images: which channels never vary on them?"),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    blocks: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="List the blocks of every layer, and draw them."),
    ] = None,
    json: Json = False,
) -> None:
    """What is sparse in a checkpoint or a model, and how.

    Per layer: shape, density, dead output and input channels, share of 2:4 groups, dense blocks.
    Then the totals and what each engine could make of it.

    \b
    Example:
      prunedeploy inspect resnet56-pruned.pt
    """
    import prunedeploy as api
    from prunedeploy.cli import show
    from prunedeploy.inspection.next_step import after_inspect

    with working(f"reading {source}") as progress:
        result = api.inspect(
            source,
            arch=arch,
            trust=trust,
            mask=mask,
            weights=weights,
            data=data,
            mean=None if mean is None else parse_floats(mean),
            std=None if std is None else parse_floats(std),
            blocks=blocks,
        )
        progress("predicting what can be gained")
        given = [*(["--arch", arch] if arch else []), *(["--mask", str(mask)] if mask else [])]
        given += ["--trust"] if trust else []
        result = replace(result, next_step=after_inspect(result, given))
    show.result(result, show.inspection, json)


@app.command()
def shrink(
    source: Annotated[Path, typer.Argument(metavar="CKPT|MODEL")],
    output: Output = None,
    arch: Arch = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="1,3,224,224", help="Shape of one input, batch first.")
    ] = None,
    mask: Mask = None,
    weights: WeightSet = None,
    zero_threshold: Annotated[
        float, typer.Option(min=0.0, help="Weights up to this size count as zero: not exact.")
    ] = 0.0,
    input_range: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOW,HIGH|recipe",
            help="What inputs lie within, and the result holds for; NAME=LOW,HIGH for several.",
        ),
    ] = None,
    align: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Keep dead channels up to multiples of N (1: none), or what is fastest.",
        ),
    ] = "auto",
    target: Annotated[str, typer.Option(help="Machine to be fast on; see: targets.")] = "host",
    pt: Annotated[
        Path | None, typer.Option(metavar="OUT.pt2", help="Also write a torch.export program.")
    ] = None,
    state_dict: Annotated[
        Path | None,
        typer.Option(metavar="OUT.pt", help="Also write the sliced state_dict, with its plan."),
    ] = None,
    trust: Trust = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every refusal.")] = False,
    json: Json = False,
) -> None:
    """Remove channels that no output needs; write an ONNX model.

    The outputs stay the same. Writes OUT.onnx (by default CHECKPOINT.shrunk.onnx in the current
    folder), the record of what was done as OUT.json, and for a checkpoint the dense model that it
    is compared with as OUT.dense.onnx. Exit status 1: the outputs differ by more than the
    tolerance, which takes a --zero-threshold.

    \b
    Examples:
      prunedeploy shrink resnet56-pruned.pt
      prunedeploy shrink net.pt --arch mypackage.nets:small --input-shape 1,3,64,64 -o small.onnx
      prunedeploy shrink net.pt --pt small.pt2 --state-dict small.pt    # back to PyTorch
    """
    import prunedeploy as api
    from prunedeploy.cli import show
    from prunedeploy.inspection.next_step import after_shrink

    shape = None if input_shape is None else parse_shape(input_shape)
    with working(f"reading {source}") as progress:
        result = api.shrink(
            source,
            output,
            arch=arch,
            input_shape=shape,
            trust=trust,
            mask=mask,
            weights=weights,
            zero_threshold=zero_threshold,
            input_range=parse_ranges(input_range or []),
            align=parse_align(align),
            target=target,
            pt=pt,
            state_dict=state_dict,
            progress=progress,
        )
        progress("predicting what an engine gains")
        result = replace(result, next_step=after_shrink(result, target))
    show.result(result, lambda r: show.shrinking(r, verbose), json)
    raise typer.Exit(0 if result.difference.passed else 1)


app.command()(onnx_commands.lower)


@app.command()
def build(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="ONNX model; the newest result of shrink here."),
    ] = None,
    target: Annotated[str, typer.Option(help="Machine to build for; see: targets.")] = "host",
    runtime: Annotated[str, typer.Option(help="auto, ort, ...; see: targets.")] = "auto",
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Dense model to compare speed with; shrink's own."),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="1,8,32", help="Batch sizes that a sparse engine computes.")
    ] = "",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads a sparse engine is cut for; 0: the target's cores.")
    ] = 0,
    tune: Annotated[
        Literal["quick", "full", "none"],
        typer.Option(help="How long to measure ways to compute its layers."),
    ] = "quick",
    within: Annotated[
        float | None,
        typer.Option(metavar="1e-6", help="Largest difference allowed, of the range; else 1e-5."),
    ] = None,
    emit: Annotated[
        Literal["c"] | None, typer.Option(help="Write its C sources instead of an engine.")
    ] = None,
    archive: Annotated[
        bool, typer.Option("--archive", help="Write a device bundle as a .tar.gz.")
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE.npy", help="What a device bundle is checked with."),
    ] = None,
    remote: Remote = None,
    ssh_option: SshOption = None,
    timeout: Timeout = 3600.0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Build an engine for a machine from an ONNX model.

    For a target that is not at hand it writes a device bundle, with all that is needed to build
    and to measure engines there. With --remote all that is done, and the engines come back.

    \b
    Examples:
      prunedeploy build
      prunedeploy build resnet56.shrunk.onnx --target host --runtime ort -o engine/
      prunedeploy build resnet50.shrunk.onnx --runtime sparse --batch 1,16
      prunedeploy build resnet50.shrunk.onnx --target jetson --archive
    """
    import prunedeploy as api
    from prunedeploy.cli import device, show

    if model is None:
        from prunedeploy.engines.sources import newest_result

        model = newest_result(Path())
        typer.echo(f"taking {model}, the newest result of shrink here", err=True)
    sizes = parse_batches(batch)
    if within is not None and (emit or remote or device.is_elsewhere(target)):
        raise typer.BadParameter("--within is for engines that are built and compared here")
    if emit is not None:
        if runtime not in ("auto", "sparse"):
            raise typer.BadParameter(f"{runtime} has no C sources: --emit is for --runtime sparse")
        with working(f"reading {model}") as progress:
            folder = api.emit_c(
                model, target, output, progress, batch=sizes, threads=threads, tune=tune
            )
        show.result({"type": "Project", "path": str(folder)}, show.project, json)
        return
    if remote is not None:
        if archive or runtime != "auto":
            raise typer.BadParameter("--remote builds what the machine can have, into a folder")
        there = device.There(remote, target, tuple(ssh_option or ()), timeout)
        device.build(there, model, output, baseline, sizes, threads, inputs, json=json)
        return
    if runtime == "auto" and device.is_elsewhere(target):
        device.write(*(model, target, output, baseline, sizes, threads, inputs, archive), json=json)
        return
    if archive or inputs is not None:
        raise typer.BadParameter("--archive and --input are for targets that are not at hand")
    with working(f"reading {model}") as progress:
        result = api.build(
            *(model, target, runtime, output, baseline, progress),
            batch=sizes,
            threads=threads,
            tune=tune,
            within=within,
        )
    show.result(result, show.engine, json)


app.command()(onnx_commands.predict)


@app.command()
def bench(
    engines: Annotated[list[Path], typer.Argument(metavar="ENGINE...")],
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Dense model or engine; what the engine came from."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs computed together.")] = 1,
    threads: Threads = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Labelled images: count answers too.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed runs of each, in turn with the others.")
    ] = 100,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time every step of sparse engines.")
    ] = False,
    remote: Remote = None,
    target: Annotated[
        str | None, typer.Option(help="What the remote machine is; that of a bundle.")
    ] = None,
    ssh_option: SshOption = None,
    timeout: Timeout = 3600.0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Time engines in turn with their dense baseline.

    An engine whose outputs are not the baseline's is refused, not timed. -o keeps every raw sample
    with its environment as JSON, for `prunedeploy report`. With --remote a model or a device bundle
    is built and timed on another machine.

    \b
    Examples:
      prunedeploy bench resnet56.host.ort --data cifar10_test1k.npz -o result.json
      prunedeploy bench resnet56.shrunk.onnx --target jetson --remote user@nano
    """
    import prunedeploy as api
    from prunedeploy.cli import show
    from prunedeploy.core.files import atomic_path, check_place, to_json

    if output is not None:
        check_place(output)
    if remote is not None:
        from prunedeploy.cli import device

        if data is not None or profile:
            raise typer.BadParameter("--data and --profile are for engines of this machine")
        there = device.There(remote, target, tuple(ssh_option or ()), timeout)
        device.bench(there, engines, output, baseline, batch, threads, rounds, json=json)
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
        )
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(result))
    show.result(result, show.benchmark, json)


@app.command()
def run(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE")],
    inputs: Annotated[Path, typer.Argument(metavar="INPUT.npy", help=".npz: several, by name.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.npy", help=".npz: several outputs.")
    ],
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Compute an engine's outputs for a NumPy file.

    \b
    Example:
      prunedeploy run resnet56.host.ort images.npy -o logits.npy
    """
    import prunedeploy as api
    from prunedeploy.cli import arrays, show

    arrays.check_output(output)
    with working(f"running {engine}"), api.open(engine, threads=threads) as session:
        results = session.run(arrays.read(inputs, session.inputs))
    arrays.write(output, results)
    show.result(arrays.describe(output, results), show.run_outputs, json)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json...")],
    output: Output = None,
    json: Json = False,
) -> None:
    """Put measurements into one table, as Markdown.

    \b
    Example:
      prunedeploy report result.json -o report.md
    """
    import prunedeploy as api
    from prunedeploy.cli import show

    with working("reading results"):
        text = api.report(results, output)
    show.result({"type": "Report", "markdown": text}, lambda _: typer.echo(text, nl=False), json)


app.command("serve-repo")(serving_commands.serve_repo)


@app.command()
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
    from prunedeploy.cli import show
    from prunedeploy.engines.self_check import self_check
    from prunedeploy.targets import targets as rows

    with working("checking the runtimes of this machine"):
        found = show.Targets(rows(), self_check())
    show.result(found, show.targets, json)
    raise typer.Exit(1 if strict and any(x.status == "FAIL" for x in found.checks) else 0)
