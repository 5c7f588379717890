"""The commands that read checkpoints: ``inspect`` and ``shrink``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import prunedeploy as api
from prunedeploy.cli.options import (
    Arch,
    Input,
    InputShape,
    Json,
    Mask,
    Mean,
    Output,
    Prefix,
    ShapeOption,
    Source,
    Std,
    Trust,
    WeightSet,
)
from prunedeploy.cli.parse import parse_align, parse_floats, parse_ranges, parse_shape, parse_sizes
from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit


def inspect(
    source: Source,
    arch: Arch = None,
    mask: Mask = None,
    weights: WeightSet = None,
    prefix: Prefix = None,
    inputs: Input = None,
    shapes: ShapeOption = None,
    trust: Trust = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="List the channels that are constant on these images."
        ),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    blocks: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png", help="List the dense blocks of every layer, and draw them."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show how sparse a checkpoint or a model is.

    For every layer it lists shape, density, dead output and input channels, the share of 2:4
    groups, and dense blocks. The totals follow, and what each engine could make of the zeros.

    \b
    Example:
      prunedeploy inspect resnet56-pruned.pt
    """
    from prunedeploy.cli.show.inspections import print_inspection
    from prunedeploy.inspection.next_step import after_inspect
    from prunedeploy.shrinking import example_inputs

    options: dict[str, object] = {
        "arch": arch, "mask": mask, "weights": weights, "prefix": prefix,
        "input": inputs, "shape": shapes,
    }  # fmt: skip
    sizes = parse_sizes(shapes)
    with working(f"reading {source}") as progress:
        result = api.inspect(
            source,
            arch=arch,
            trust=trust,
            mask=mask,
            weights=weights,
            prefix=prefix,
            inputs=[example_inputs.parse(text) for text in inputs or []],
            shapes=sizes,
            data=data,
            mean=None if mean is None else parse_floats(mean),
            std=None if std is None else parse_floats(std),
            blocks=blocks,
        )
        progress("predicting what can be gained")
        step = after_inspect(result, _given(options, trust), shapes=sizes[0])
        if step is not None and len(sizes) > 1:
            step = replace(step, runtime="", why="")  # it is of the first size alone
        result = replace(result, next_step=step)
    emit(result, print_inspection, json)


def _given(options: Mapping[str, object], trust: bool) -> list[str]:
    """The options of a checkpoint as words, for the next command."""
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [word for x in values if x is not None for word in (f"--{name}", str(x))]
    return [*words, "--trust"] if trust else words


def shrink(
    source: Source,
    output: Output = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    mask: Mask = None,
    weights: WeightSet = None,
    prefix: Prefix = None,
    inputs: Input = None,
    shapes: ShapeOption = None,
    zero_threshold: Annotated[
        float,
        typer.Option(
            min=0.0, help="Treat weights up to this size as zero; the outputs may change."
        ),
    ] = 0.0,
    input_range: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOW,HIGH|recipe",
            help="Range that all inputs lie within; write NAME=LOW,HIGH where there are several "
            "inputs. The result is exact within the range only.",
        ),
    ] = None,
    align: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Keep dead channels up to multiples of N (1 keeps none), or take the fastest.",
        ),
    ] = "auto",
    target: Annotated[
        str, typer.Option(help="Machine to be fast on; `prunedeploy targets` lists them.")
    ] = "host",
    pt: Annotated[
        Path | None,
        typer.Option(metavar="OUT.pt2", help="Also write the network as a torch.export program."),
    ] = None,
    state_dict: Annotated[
        Path | None,
        typer.Option(metavar="OUT.pt", help="Also write the sliced state_dict and its plan."),
    ] = None,
    trust: Trust = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List every step, cut and refusal.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove the channels that no output depends on.

    The outputs stay the same. The command writes OUT.onnx (by default CHECKPOINT.shrunk.onnx in the
    current folder), the record of what was done as OUT.json, and for a checkpoint the dense model
    that it is compared with as OUT.dense.onnx. The exit status is 1 where the outputs differ by
    more than the tolerance, which only happens with --zero-threshold.

    \b
    Examples:
      prunedeploy shrink resnet56-pruned.pt
      prunedeploy shrink net.pt --arch mypackage.nets:small --input-shape 1,3,64,64 -o small.onnx
      prunedeploy shrink net.pt --pt small.pt2 --state-dict small.pt    # back to PyTorch
    """
    with working(f"reading {source}") as progress:
        if not trust:
            from prunedeploy.checkpoint import screen

            screen(source, weights, prefix)
        from prunedeploy.cli.show.shrunk import print_shrinking
        from prunedeploy.graph.several_sizes import common
        from prunedeploy.inspection.next_step import after_shrink
        from prunedeploy.shrinking import example_inputs

        shape = None if input_shape is None else parse_shape(input_shape)
        result = api.shrink(
            source,
            output,
            arch=arch,
            input_shape=shape,
            trust=trust,
            mask=mask,
            weights=weights,
            prefix=prefix,
            inputs=[example_inputs.parse(text) for text in inputs or []],
            shapes=common(parse_sizes(shapes)),
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
    emit(result, lambda r: print_shrinking(r, verbose), json)
    raise typer.Exit(0 if result.difference.passed else 1)
