"""prunedeploy on a case: export, all passes, and ONNX Runtime against torch in float32."""

from __future__ import annotations

import time
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch

from peers.case import Case, is_weight
from peers.result import Result, error, one_line, outputs
from prunedeploy import passes
from prunedeploy.core.records import Note
from prunedeploy.shrinking.export import OPSET, to_model

NAME = "prunedeploy"


def to_onnx(case: Case) -> ir.Model:
    """The network with a dynamic batch where the package's exporter takes it, else a fixed one."""
    if len(case.inputs) == 1 and case.inputs[0].is_floating_point():
        return to_model(case.module, tuple(case.inputs[0].shape))
    program = torch.onnx.export(
        case.module, case.inputs, opset_version=OPSET, dynamo=True, verbose=False
    )
    assert program is not None
    return program.model


def measure(case: Case, folder: Path | None = None, export_only: bool = False) -> Result:
    """Shrink and compare. ``folder``: where the dense network goes, for tools that read ONNX."""
    with torch.no_grad():
        expected = outputs(case.module(*case.inputs))
    model = to_onnx(case)
    if folder is not None:
        ir.save(model, folder / f"{case.slug}.onnx")
    if export_only:
        return Result(0, case.removable)
    before = weights(model)[0]
    names = [value.name or "" for value in model.graph.inputs]
    feeds = {name: x.numpy() for name, x in zip(names, case.inputs, strict=True)}
    begin = time.perf_counter()
    try:
        reports = passes.run(model, passes.DEFAULT, feeds)
    except Exception as exception:
        return Result(0, case.removable, message=one_line(exception), failed=True)
    seconds = time.perf_counter() - begin
    after, added = weights(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    computed = outputs(session.run(None, feeds))
    difference = error(expected, computed)
    notes = {note for report in reports for note in _refusals(report.result.notes)}
    removed = before - after
    message = "; ".join(sorted(notes))[:300] if removed < case.removable else ""
    return Result(removed, case.removable, difference, added, message, seconds=round(seconds, 2))


def _refusals(notes: tuple[Note, ...]) -> list[str]:
    return [f"{note.where}: {note.reason}" for note in notes if note.status == "refused"]


def weights(model: ir.Model) -> tuple[int, int]:
    """Weights, and values of the maps that take over what constants add at the borders."""
    total, maps = 0, 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        shape = tuple(tensor.shape.numpy())
        if ".borders" in name:
            maps += tensor.size
        elif is_weight(shape):
            total += tensor.size
    return total, maps
