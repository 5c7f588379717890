"""The commands that read checkpoints: ``inspect`` and ``shrink``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prunedeploy.cli.options import Arch, Json, Mask, Mean, Output, Std, Trust, WeightSet
from prunedeploy.cli.parse import parse_align, parse_floats, parse_ranges, parse_shape
from prunedeploy.cli.progress import working


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
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.inspections import print_inspection
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
    emit(result, print_inspection, json)


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
    from prunedeploy.cli.show import emit
    from prunedeploy.cli.show.shrunk import print_shrinking
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
    emit(result, lambda r: print_shrinking(r, verbose), json)
    raise typer.Exit(0 if result.difference.passed else 1)
