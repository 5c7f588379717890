"""The ``optimize`` command: from a checkpoint or a model to the fastest engine and a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from prunedeploy.cli.options import (
    Arch,
    Input,
    InputShape,
    Json,
    Mask,
    Prefix,
    ShapeOption,
    Source,
    Threads,
    Trust,
    WeightSet,
)
from prunedeploy.cli.parse import parse_shape, parse_sizes
from prunedeploy.cli.progress import working


def optimize(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder to write; by default SOURCE.optimized."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Machine to be fast on; `prunedeploy targets` lists them.")
    ] = "host",
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Labelled images to count changed predictions on."),
    ] = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    mask: Mask = None,
    weights: WeightSet = None,
    prefix: Prefix = None,
    inputs: Input = None,
    shapes: ShapeOption = None,
    trust: Trust = False,
    batch: Annotated[int, typer.Option(min=1, help="Number of inputs in a batch.")] = 1,
    threads: Threads = 0,
    tune: Annotated[
        Literal["quick", "full", "none"],
        typer.Option(help="How thoroughly to measure the schedules of the sparse runtime."),
    ] = "quick",
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed runs of each engine, in turn with the other.")
    ] = 100,
    json: Json = False,
) -> None:
    """Make a sparse network fast on a machine, in one step.

    The command removes dead channels, builds the engine of every runtime that can compute the
    network, takes the fastest, measures it beside the dense network, and writes the engine and
    report.html. For another machine it writes a device bundle, and predicts the speed.

    \b
    Examples:
      prunedeploy optimize resnet18-pruned.pt
      prunedeploy optimize resnet56.pt --data cifar10_test1k.npz -o fast/
      prunedeploy optimize bert.onnx --shape input_ids=1x64,1x128
      prunedeploy optimize mobilenet.onnx --target jetson
    """
    with working(f"reading {source}") as progress:
        if not trust:
            from prunedeploy.checkpoint import screen

            screen(source, weights, prefix)
        from prunedeploy.cli.show import emit
        from prunedeploy.cli.show.optimized import print_optimized
        from prunedeploy.optimizing.optimize import optimize as run
        from prunedeploy.shrinking.example_inputs import parse

        result = run(
            source,
            output,
            target=target,
            data=data,
            arch=arch,
            input_shape=None if input_shape is None else parse_shape(input_shape),
            trust=trust,
            mask=mask,
            weights=weights,
            prefix=prefix,
            inputs=[parse(text) for text in inputs or []],
            shapes=parse_sizes(shapes),
            batch=batch,
            threads=threads,
            tune=tune,
            rounds=rounds,
            commands=(shlex.join(["prunedeploy", *sys.argv[1:]]),),
            progress=progress,
        )
    emit(result, print_optimized, json)
