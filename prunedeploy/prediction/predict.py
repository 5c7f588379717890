"""Predicts a model's time on a target, from each layer and the machine's limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunedeploy import targets
from prunedeploy.core.errors import UserError, naming_file
from prunedeploy.core.measurements import Forecast
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.fixed_shapes import Shapes, fix, sized
from prunedeploy.prediction import gpu, gpu_choice, graph, steps
from prunedeploy.prediction.efficiency import GPU, ORT, SPARSE, Table, band
from prunedeploy.prediction.machine import CPU_RUNTIMES, GPU_RUNTIMES, Machine, machine
from prunedeploy.prediction.record import LayerTime, Prediction
from prunedeploy.prediction.roofline import layer_times
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import is_for_gpu

WIDTHS = {"float64": 8.0, "float32": 4.0, "tf32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0}
PREDICTED = (*CPU_RUNTIMES, *GPU_RUNTIMES, "sparse-gpu")


def predict(
    model: str | Path,
    target: str = "host",
    runtime: str = "auto",
    *,
    precision: str = "float32",
    batch: int = 1,
    threads: int = 0,
    shapes: Shapes | None = None,
) -> Prediction:
    """Predict one run of ``model``; nothing is built and nothing is timed.

    Args:
        model: an ONNX file of which at most the batch is open, or whose ``shapes`` are given.
        target: a name of ``targets.TARGETS`` or of the user's own.
        runtime: one that the target can have; "auto" is its best one that can be predicted.
        precision: what it computes in; on CPUs float32.
        batch: inputs a run.
        threads: of a CPU; 0 for all cores of the target.
        shapes: sizes of inputs that the model leaves open, by their names.

    Returns:
        The time in its band, layer by layer.

    Raises:
        UserError: no such model or target; the target cannot have the runtime or the precision; its
            target has no figures to predict from; a layer has no known size.

    Example:
        >>> import prunedeploy
        >>> forecast = prunedeploy.predict("net.onnx", "raspberry-pi-5").forecast
        >>> forecast.low <= forecast.seconds <= forecast.high
        True
    """
    hardware = targets.by_name(target)
    path = Path(model)
    if batch < 1 or threads < 0:
        raise UserError(f"give a batch from 1 and threads from 0, not {batch} and {threads}")
    chosen = _runtime(hardware, runtime)
    if chosen == "sparse-gpu" or (chosen == "sparse" and is_for_gpu(hardware)):
        return _on_gpu(path, hardware, chosen, precision, batch, shapes)
    limits = machine(hardware, chosen, precision, threads)
    notes: tuple[str, ...] = ()
    with naming_file(path):
        if chosen == "sparse":
            with sized(path, shapes) as file:
                works = steps.of_model(file, hardware, batch, limits.threads)
        else:
            style = graph.Style(hardware.multiple, chosen in GPU_RUNTIMES, WIDTHS[precision])
            prepared = preparation.from_file(path)
            fix(prepared.model, shapes or {})
            works, notes = graph.works(prepared.model, batch, style)
            notes = (*prepared.notes, *notes)
    table = table_of(chosen)
    layers = layer_times(works, limits, table)
    return Prediction(
        model=path.name,
        model_sha256=models.sha256(path),
        target=hardware.name,
        forecast=forecast(layers, limits, table, hardware, chosen, precision, batch),
        layers=layers,
        basis=f"peaks: {hardware.source}; efficiencies: {table.source}",
        notes=notes,
    )


def _on_gpu(
    path: Path, target: Target, runtime: str, precision: str, batch: int, shapes: Shapes | None
) -> Prediction:
    """The prediction of a sparse engine on the GPU of ``target``."""
    if precision != "float32":
        raise UserError(f"sparse on a GPU computes in float32 only, not in {precision}")
    with sized(path, shapes) as file:
        layers = gpu.layer_times(file, target, batch)
        notes = (gpu_choice.sentence(gpu_choice.layer_choices(file, target, batch)),)
    return Prediction(
        model=path.name,
        model_sha256=models.sha256(path),
        target=target.name,
        forecast=gpu.forecast(layers, runtime, batch),
        layers=layers,
        basis=f"peaks: {target.source}; {gpu.BASIS}",
        notes=notes,
    )


def predict_all(
    model: str | Path,
    target: str,
    *,
    batch: int = 1,
    threads: int = 0,
    shapes: Shapes | None = None,
) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Predict one run in every runtime and precision of the target.

    Returns:
        The predictions, and for each combination without one the reason.

    Raises:
        UserError: no such model or target.

    Example:
        >>> import prunedeploy
        >>> predictions, without = prunedeploy.predict_all("net.onnx", "raspberry-pi-5")
        >>> sorted({each.forecast.runtime for each in predictions})
        ['ort', 'sparse']
    """
    hardware = targets.by_name(target)
    fix(models.load(Path(model)), shapes or {})
    predictions: list[Prediction] = []
    why: list[str] = []
    for runtime in hardware.runtimes:
        if runtime not in PREDICTED:
            continue
        for precision in _precisions(hardware, runtime):
            try:
                one = predict(
                    *(model, target, runtime),
                    precision=precision,
                    batch=batch,
                    threads=threads,
                    shapes=shapes,
                )
            except UserError as error:
                why.append(f"{runtime}, {precision}: {error}")
            else:
                predictions.append(one)
    return tuple(predictions), tuple(why)


def of_layers(
    target: Target,
    runtime: str,
    layers: Iterable[Mapping[str, Any]],
    cut: int,
    batch: int,
    threads: int,
) -> Forecast:
    """The forecast of a sparse engine from its own layers, cut for ``cut`` threads.

    Raises:
        UserError: the target has no figures.
    """
    limits, table = machine(target, runtime, "float32", threads), table_of(runtime)
    times = layer_times(steps.of_layers(layers, cut, limits.threads), limits, table)
    return forecast(times, limits, table, target, runtime, "float32", batch)


def forecast(
    layers: Sequence[LayerTime],
    limits: Machine,
    table: Table,
    target: Target,
    runtime: str,
    precision: str,
    batch: int,
) -> Forecast:
    """The sum of all layers, in its band."""
    seconds = table.start + sum(layer.seconds for layer in layers)
    factor = band(target, runtime)
    return Forecast(
        runtime, precision, batch, limits.threads, seconds, seconds / factor, seconds * factor
    )


def table_of(runtime: str) -> Table:
    """The efficiencies of ``runtime``, which is one of ``PREDICTED``."""
    return {"ort": ORT, "sparse": SPARSE}.get(runtime, GPU)


def _runtime(target: Target, wanted: str) -> str:
    if wanted == "auto":
        known = [name for name in target.runtimes if name in PREDICTED]
        if not known:
            raise UserError(
                f"no runtime of {target.name} can be predicted: {', '.join(target.runtimes)}"
            )
        return known[0]
    if wanted not in target.runtimes:
        raise UserError(
            f"{target.name} cannot have {wanted}: it takes {', '.join(target.runtimes)}"
        )
    if wanted not in PREDICTED:
        others = ", ".join(name for name in target.runtimes if name in PREDICTED)
        raise UserError(
            f"{wanted} cannot be predicted: build it to measure it, or choose from {others}"
        )
    return wanted


def _precisions(target: Target, runtime: str) -> tuple[str, ...]:
    """The precisions of ``lower`` that an engine for ``target`` may compute in."""
    if runtime in (*CPU_RUNTIMES, "sparse-gpu"):
        return ("float32",)
    limits = target.toolchain.precisions if target.toolchain is not None else ("float32",)
    return tuple(name for name in ("float32", "float16", "int8") if name in limits)
