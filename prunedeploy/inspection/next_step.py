"""The command to go on with after ``shrink`` and ``inspect``, and its predicted gain."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.measurements import Forecast
from prunedeploy.core.records import NextStep, ShrinkResult
from prunedeploy.runtimes import registry

if TYPE_CHECKING:
    from prunedeploy.graph.fixed_shapes import Shapes
    from prunedeploy.inspection.inspect import Inspection

# The speed of the sparse runtime beside ONNX Runtime, from the share s of multiply-accumulates
# that are left. Between 1 / (A + B s) of the two lines below lie all networks of
# docs/benchmarks/cpu.md at batch 1, on 1 and 2 threads (ResNet-18 and -50, MobileNetV1 and V2,
# VGG-16, BERT).
SLOW_LINE, FAST_LINE = (0.17, 1.45), (0.06, 0.95)
# of a network that was not recognised: for the user to fill in
OF_ONES_OWN = ("--arch", "FILE.py:FACTORY", "--input-shape", "SHAPE")
SPARSE = 0.7  # from this share of multiply-accumulates on zeros are not worth skipping


def after_shrink(result: ShrinkResult, target: str = "host") -> NextStep:
    """``prunedeploy build`` of what was shrunk, and its speed beside ONNX Runtime's on the dense
    network, by the predictions of ``prunedeploy.predict``.
    """
    words = ["prunedeploy", "build", str(result.model)]
    return _of_model(words, result.model, result.dense, target)


def after_inspect(
    inspection: Inspection,
    arguments: Sequence[str] = (),
    target: str = "host",
    shapes: Shapes | None = None,
) -> NextStep | None:
    """``shrink`` of a checkpoint or of a model with channels to remove, else ``build``.

    Args:
        inspection: what ``inspect`` returned.
        arguments: options that reading the file took, ``--arch`` and the like.
        target: the machine to predict for.
        shapes: the sizes of inputs that ``arguments`` state.

    Returns:
        None where every weight is zero, or none.
    """
    totals = inspection.totals
    if not totals.nonzero or totals.nonzero == totals.weights:
        return None
    source = str(inspection.source)
    dead = totals.dead_outputs + totals.dead_inputs + totals.dead_scales
    if inspection.kind == "model" and not dead:
        words = ["prunedeploy", "build", source, *(x for x in arguments if x != "--trust")]
        return _of_model(words, inspection.source, inspection.source, target, shapes)
    words = ["prunedeploy", "shrink", source, *arguments]
    if inspection.kind == "checkpoint" and inspection.arch is None and "--arch" not in arguments:
        words += OF_ONES_OWN
    left = totals.density
    if totals.macs and totals.nonzero_macs is not None:
        left = totals.nonzero_macs / totals.macs
    step = NextStep(shlex.join(words), target)
    if left > SPARSE or not _has_sparse(target):
        return step
    low, high = (1 / (base + slope * left) for base, slope in (SLOW_LINE, FAST_LINE))
    return replace(step, runtime="sparse", low=max(low, 1.0), high=high, share=left)


def _of_model(
    words: list[str], model: Path, dense: Path, target: str, shapes: Shapes | None = None
) -> NextStep:
    """Building ``model``, by the prediction of each runtime, where there is one."""
    from prunedeploy.prediction.predict import predict

    hardware = targets.by_name(target)
    if hardware.name != "host":
        words = [*words, "--target", target]
    step = NextStep(shlex.join(words), hardware.name)
    forecasts: list[Forecast] = []
    for runtime in ("ort", "sparse"):
        if runtime in hardware.runtimes and (runtime != "sparse" or _has_sparse(target)):
            try:
                forecasts.append(predict(model, hardware.name, runtime, shapes=shapes).forecast)
            except UserError as error:
                step = replace(step, why=f"{runtime}: {error}")
    try:
        baseline = predict(dense, hardware.name, "ort", shapes=shapes).forecast
    except UserError as error:
        return replace(step, why=str(error))
    if not forecasts or not baseline.seconds:
        return step
    best = min(forecasts, key=lambda forecast: forecast.seconds)
    if not best.seconds:
        return replace(step, why="nothing is left to compute")
    speed = baseline.seconds / best.seconds
    return replace(
        step,
        runtime=best.runtime,
        threads=best.threads,
        seconds=best.seconds,
        low=speed,
        high=speed,
    )


def _has_sparse(target: str) -> bool:
    """True where the sparse runtime can build for ``target`` on this machine."""
    hardware = targets.by_name(target)
    return "sparse" in hardware.runtimes and registry.refuse(hardware, "sparse") is None
