"""The commands that read ONNX models alone: ``lower`` and ``predict``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import prunedeploy as api
from prunedeploy.cli.options import Json, Output, ShapeOption, Threads
from prunedeploy.cli.parse import parse_sizes
from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit, emit_each

if TYPE_CHECKING:
    from prunedeploy.prediction.record import Prediction

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]


def lower(
    model: Model,
    target: Annotated[
        str, typer.Option(help="Machine to write it for; `prunedeploy targets` lists them.")
    ] = "host",
    output: Output = None,
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Number type to compute in; float16 and int8 are not exact."),
    ] = "float32",
    weights: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(
            help="Number type to round the weights of linear layers on few positions to; the "
            "model still computes in float32."
        ),
    ] = "float32",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Keep this node in float32; repeat it for several."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE.npy", help="Inputs to calibrate with; int8 needs them."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Largest error that int8 may cause, relative to the range of an output."
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(min=1, help="Write this opset instead of the newest that the target reads."),
    ] = None,
    ir_version: Annotated[int | None, typer.Option(min=0, help="Write this IR version.")] = None,
    shapes: ShapeOption = None,
    json: Json = False,
) -> None:
    """Write a model in the opset and precision that a machine reads.

    Another opset is exact. Models in float16 or int8 and rounded weights are compared with the
    model as it was, and refused where they differ by more than their tolerance. Of several sizes
    each is a model of its own.

    \b
    Examples:
      prunedeploy lower resnet56.shrunk.onnx --target jetson --precision float16
      prunedeploy lower resnet56.shrunk.onnx --target t4 --precision int8 --input images.npy
      prunedeploy lower vgg16.shrunk.onnx --weights float16
    """
    from prunedeploy.cli.arrays import inputs_of
    from prunedeploy.cli.show.models import print_lowered
    from prunedeploy.graph.several_sizes import stated_names

    sizes = parse_sizes(shapes)
    with working(f"reading {model}"):
        results = [
            api.lower(
                *(model, output),
                target=target,
                precision=precision,
                weights=weights,
                opset=opset,
                ir_version=ir_version,
                feeds=inputs_of(model, inputs),
                keep=tuple(keep or ()),
                budget=budget,
                shapes=size,
                suffix=name,
            )
            for size, name in zip(sizes, stated_names(sizes), strict=True)
        ]
    emit_each(results, print_lowered, json)


def predict(
    model: Model,
    target: Annotated[
        str, typer.Option(help="Machine to predict for; `prunedeploy targets` lists them.")
    ] = "host",
    runtime: Annotated[
        str, typer.Option(help="One runtime of the target, all of them, or auto for its best one.")
    ] = "all",
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Number type that one runtime computes in."),
    ] = "float32",
    batch: Annotated[int, typer.Option(min=1, help="Number of inputs in a batch.")] = 1,
    threads: Threads = 0,
    shapes: ShapeOption = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer, for one runtime.")
    ] = False,
    output: Output = None,
    json: Json = False,
) -> None:
    """Predict how long a model takes on a machine that is not here.

    The prediction adds up the layers, from the machine's peak rates and from efficiencies that were
    measured on other machines. It is never a measurement. -o keeps the forecast of one runtime as
    JSON, for `prunedeploy report`.

    \b
    Examples:
      prunedeploy predict resnet56.shrunk.onnx --target jetson
      prunedeploy predict resnet56.shrunk.onnx --target raspberry-pi-5 --runtime sparse --layers
    """
    from prunedeploy.cli.show.models import Forecasts, print_forecasts
    from prunedeploy.core.files import atomic_path, check_writable, to_json
    from prunedeploy.graph.several_sizes import stated_names

    if runtime == "all" and (layers or output is not None or precision != "float32"):
        raise typer.BadParameter("--layers, --precision and -o are of one runtime: give --runtime")
    if output is not None:
        check_writable(output)
    sizes = parse_sizes(shapes)
    names = stated_names(sizes)
    if output is not None and len(sizes) > 1:
        raise typer.BadParameter("-o keeps the forecast of one size: state one --shape")
    predicted: list[Prediction] = []
    refused: list[str] = []
    with working(f"reading {model}"):
        for size, name in zip(sizes, names, strict=True):
            how: dict[str, Any] = {"batch": batch, "threads": threads, "shapes": size}
            if runtime == "all":
                predictions, why = api.predict_all(model, target, **how)
            else:
                predictions = (api.predict(model, target, runtime, precision=precision, **how),)
                why = ()
            predicted += [replace(each, size=name) for each in predictions]
            refused += [f"{name}, {each}" if name else each for each in why]
    forecasts = Forecasts(tuple(predicted), tuple(refused))
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(forecasts.predictions[0]))
    emit(forecasts, lambda x: print_forecasts(x, layers), json)
