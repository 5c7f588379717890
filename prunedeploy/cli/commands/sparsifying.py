"""The ``sparsify`` command: from a dense network to a sparse one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunedeploy.cli.options import (
    Arch,
    Json,
    Mask,
    Mean,
    Prefix,
    Std,
    Threads,
    Trust,
    WeightSet,
)
from prunedeploy.cli.parse import parse_floats
from prunedeploy.cli.progress import working
from prunedeploy.core.errors import UserError

RECIPE = ".toml"


def sparsify(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT|RECIPE.toml",
            help="A dense checkpoint; or a recipe: the network, the data, the method, the machine.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            *("-o", "--output"),
            metavar="PATH",
            help="Checkpoint to write, by default CKPT.sparse.pt; of a recipe a folder, by default "
            "RECIPE.sparsified.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Samples to calibrate on; labels are not needed."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(metavar="D", help="Keep this share of the weights.")
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(metavar="F", help="Keep this share of the multiply-accumulates."),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(metavar="S", help="Be so many times as fast as the dense network."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Machine to be fast on; `prunedeploy targets` lists them.")
    ] = "host",
    method: Annotated[
        str, typer.Option(metavar="magnitude|wanda|obs", help="How weights are scored.")
    ] = "obs",
    budget: Annotated[
        str,
        typer.Option(
            metavar="global|uniform|erk|latency",
            help="What each layer keeps; by default latency for a speed, else global.",
        ),
    ] = "",
    units: Annotated[
        str,
        typer.Option(
            metavar="scattered|channels|blocks|2:4|1x4|mixed", help="What is removed together."
        ),
    ] = "scattered",
    samples: Annotated[int, typer.Option(min=1, help="Samples to calibrate on.")] = 1000,
    distill: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Then train by the dense outputs.")
    ] = 0,
    finetune: Annotated[
        float, typer.Option(min=0, metavar="EPOCHS", help="Then train by the labels of --data.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Number of inputs in a batch.")] = 1,
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    arch: Arch = None,
    mask: Mask = None,
    weights: WeightSet = None,
    prefix: Prefix = None,
    mean: Mean = None,
    std: Std = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Make a dense network sparse: in one shot, or by training as a recipe says.

    In one shot a checkpoint needs a thousand unlabelled samples and minutes. Weights are chosen for
    a density or for a speed on a machine, and those that stay take over by least squares.

    A recipe is carried out where it was interrupted, and not at all where it is done. Its folder
    has sparse.pt, which are plain weights with zeros, epochs.csv, curves.png and row.json, and
    small.onnx with its engines where the recipe deploys.

    \b
    Examples:
      prunedeploy sparsify resnet20.pt --data images.npz --density 0.2
      prunedeploy sparsify resnet20.pt --data images.npz --speedup 3 --target host
      prunedeploy sparsify recipe.toml -o digits/
    """
    if source.suffix.lower() == RECIPE:
        if data is not None or not density is flops is speedup is None:
            raise UserError(f"{source} is a recipe, which says all that: leave the options out")
        _carry_out(source, output, json)
        return
    if data is None:
        raise UserError("calibration needs samples of the network's inputs: give --data images.npz")
    if (mean is None) != (std is None):
        raise UserError("--mean and --std go together: give both")
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.one_shot import print_one_shot
    from prunedeploy.sparsify.oneshot.model import sparsify_model
    from prunedeploy.sparsify.oneshot.options import OneShotOptions

    options = OneShotOptions(
        density=density,
        flops=flops,
        speedup=speedup,
        target=target,
        method=method,
        budget=budget,
        units=units,
        batch=batch,
        threads=threads,
        distill=distill,
        finetune=finetune,
        seed=seed,
    )
    known = None if mean is None or std is None else (parse_floats(mean), parse_floats(std))
    with working(f"reading {source}") as progress:
        result = sparsify_model(
            source,
            data,
            output,
            options,
            arch=arch,
            trust=trust,
            mask=mask,
            weights=weights,
            prefix=prefix,
            normalisation=known,
            count=samples,
            progress=progress,
        )
    emit(result, print_one_shot, json)


def _carry_out(source: Path, output: Path | None, json: bool) -> None:
    """Train by a recipe."""
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.sparsified import print_row
    from prunedeploy.sparsify import recipe

    folder = Path(output or recipe.folder_of(source))
    with working(f"reading {source}") as progress:
        row = recipe.run(source, folder, progress=progress)
    emit(row, lambda done: print_row(done, folder), json)
