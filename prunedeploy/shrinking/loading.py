"""A checkpoint, an ONNX file or a model in memory as a program that is ready for the passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from prunedeploy import checkpoint
from prunedeploy.core.errors import UserError
from prunedeploy.graph import input_range as input_ranges
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.fixed_shapes import fix
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.shrinking.check_export import check_export
from prunedeploy.shrinking.example_inputs import call_of
from prunedeploy.shrinking.examples import Call
from prunedeploy.shrinking.export import call_to_model, to_model
from prunedeploy.shrinking.inference_copy import inference_copy
from prunedeploy.shrinking.input_size import input_size
from prunedeploy.shrinking.request import (
    CheckpointOptions,
    Progress,
    ShrinkRequest,
    batch_shape,
    is_module,
    is_onnx,
)

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from torch import nn


@dataclass(frozen=True)
class Loaded:
    """A model ready for the passes, and what is known of where it came from.

    ``shape`` is that of one batch of the first input; ``notes`` say what the source held, for
    people; ``mean`` and ``std`` normalise pixels in [0, 1]. Of a checkpoint or a module,
    ``module`` is the network, which shares its weights with ``program``, ``buffers`` names the
    tensors in it that are not trained, and ``plain`` exports it again, with nothing folded.
    """

    program: ir.Model
    shape: Sequence[int] | None
    notes: tuple[str, ...] = ()
    arch: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    module: nn.Module | None = None
    buffers: frozenset[str] = frozenset()
    plain: Callable[[], ir.Model] | None = None


def load(source: Path, options: CheckpointOptions) -> Loaded:
    """The checkpoint or ONNX file at ``source``.

    Raises:
        UserError: it cannot be read or exported.
    """
    loaded = _load_file(source, options, lambda _: None)
    fix(loaded.program, options.shapes)
    return loaded


def load_model(request: ShrinkRequest) -> Loaded:
    """Load any model that ``shrink`` takes.

    Raises:
        UserError: it cannot be read or exported.
    """
    loaded = _loaded(request)
    fix(loaded.program, request.options.shapes)
    return loaded


def _loaded(request: ShrinkRequest) -> Loaded:
    model, options = request.model, request.options
    if is_module(model):
        return _load_module(model, request.call, options, request.progress)
    if not isinstance(model, str | Path):
        prepared = _from_memory(model)
        return Loaded(prepared.model, options.input_shape, prepared.notes)
    return _load_file(request.source, options, request.progress)


def _load_file(source: Path, options: CheckpointOptions, progress: Progress) -> Loaded:
    if is_onnx(source):
        prepared = preparation.from_file(source)
        return Loaded(prepared.model, options.input_shape, ("ONNX model", *prepared.notes))
    return _load_checkpoint(source, options, progress)


def _load_checkpoint(source: Path, options: CheckpointOptions, progress: Progress) -> Loaded:
    read = checkpoint.load(
        source,
        arch=options.arch,
        trust=options.trust,
        mask=options.mask,
        weights=options.weights,
        prefix=options.prefix,
    )
    shape, notes = batch_shape(options) or read.input_shape, read.found
    if shape is None and (shape := input_size(read.module)) is not None:
        notes = (*notes, f"input taken as {'x'.join(map(str, shape))}: --shape states another")
    if shape is None:
        raise UserError(
            f"the input shape of {source} is not known: give it with --input-shape 1,3,224,224"
            " (--shape 1x3x224x224 fixes the batch, too), or, of integers or of several inputs,"
            " with --input NAME=int64[1,128]"
        )
    progress(f"exporting {read.arch or source} at {'x'.join(map(str, shape))}")
    export = partial(to_model, read.module, shape)
    if options.inputs:
        export = partial(call_to_model, read.module, call_of(read.module, options.inputs))
    program = preparation.prepare(export())
    _attach_bounds(program, options)
    mean, std = _normalisation(read, shape)
    plain = partial(export, optimize=False)
    buffers = _buffers(read.module)
    return Loaded(program, shape, notes, read.arch, mean, std, read.module, buffers, plain)


def _load_module(
    module: nn.Module, call: Call | None, options: CheckpointOptions, progress: Progress
) -> Loaded:
    """A module in memory; its export is compared with what the module computes.

    Raises:
        UserError: there are no example inputs, or the module does not run on them or cannot be
            copied or exported.
    """
    copied, shape = inference_copy(module), options.input_shape
    name = type(copied).__name__
    progress(f"exporting {name}")
    note = f"{name} in memory" + (", as in eval mode" if module.training else "")
    if call is None:
        if shape is None:
            raise UserError("a module needs example inputs: shrink(module, example_inputs)")
        export = partial(to_model, copied, shape)
        program = preparation.prepare(export())
    else:
        export = partial(call_to_model, copied, call)
        program = preparation.prepare(export())
        check_export(program, copied, call)
        shape = shape if len(call.tensors) == 1 else None
    plain = partial(export, optimize=False)
    return Loaded(*(program, shape, (note,)), module=copied, buffers=_buffers(copied), plain=plain)


def _buffers(module: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in module.named_buffers())


def _attach_bounds(program: ir.Model, options: CheckpointOptions) -> None:
    """Write the ranges of the stated inputs into the model, as those of ``--input-range`` are."""
    bounds = {each.name: each.bounds for each in options.inputs if each.bounds is not None}
    inputs, _ = models.specs(program)
    input_ranges.attach(program, input_ranges.resolve(bounds or None, inputs))


def _normalisation(
    read: checkpoint.Checkpoint, shape: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1]; empty where no recipe has as many channels
    as ``shape``."""
    from torch import nn

    if read.recipe is None or len(read.recipe.mean) != (channels := shape[1]):
        return (), ()
    if not isinstance(getattr(read.module, "normalize", nn.Identity()), nn.Identity):
        return (0.0,) * channels, (1.0,) * channels
    return read.recipe.mean, read.recipe.std


def _from_memory(model: onnx.ModelProto | gs.Graph) -> preparation.Prepared:
    import onnx

    if isinstance(model, onnx.ModelProto):
        return preparation.from_proto(model)
    import onnx_graphsurgeon as gs

    proto: onnx.ModelProto = gs.export_onnx(model)
    return preparation.from_proto(proto)


def refuse_nan(program: ir.Model) -> None:
    """Refuse a model with NaN in its weights, or with infinity in those of a layer.

    NaN is never meant; infinity may be, in a mask or a bound.

    Raises:
        UserError: a weight holds one; it is named.
    """
    weights = {layer.weight for layer in layers_of(program.graph)}
    for name, value in program.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        # the sum is not finite when one weight is not: no temporary of the weight's size
        array = tensor.numpy()
        if not np.isfinite(array.sum(dtype=np.float64)) and (
            np.isnan(array).any() or (value in weights and np.isinf(array).any())
        ):
            raise UserError(f"weight {name} holds NaN or infinity: the checkpoint is broken")
        models.release(tensor)
