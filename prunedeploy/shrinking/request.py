"""The arguments of ``shrink``, checked before anything is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from prunedeploy import checkpoint, targets
from prunedeploy.core import files
from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.log import logged
from prunedeploy.core.records import ShrinkResult
from prunedeploy.shrinking.inference_copy import unwrapped
from prunedeploy.to_torch import Outputs

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from torch import nn
    from typing_extensions import TypeIs

    from prunedeploy.graph.fixed_shapes import Shapes
    from prunedeploy.graph.input_range import Stated
    from prunedeploy.shrinking.example_inputs import ExampleInput
    from prunedeploy.shrinking.examples import Call

    Model: TypeAlias = str | Path | onnx.ModelProto | gs.Graph | nn.Module

Align = int | Literal["auto"]
Progress = Callable[[str], None]
IN_MEMORY = Path("in memory")


@dataclass(frozen=True)
class CheckpointOptions:
    """The options of ``checkpoint.load``, and what the network takes.

    ``input_shape`` is the shape of one batch, ``inputs`` state several inputs or their types;
    ``shapes`` are sizes that stay fixed, which an ONNX model may be given, too.
    """

    arch: str | None = None
    input_shape: Sequence[int] | None = None
    trust: bool = False
    mask: str | Path | None = None
    weights: str | None = None
    prefix: str | None = None
    inputs: tuple[ExampleInput, ...] = ()
    shapes: Shapes = field(default_factory=dict)

    def refuse_for(self, what: str) -> None:
        """Refuse what ``what``, which is no checkpoint, has no use for.

        Raises:
            UserError: an option for checkpoints alone was given.
        """
        for name in ("arch", "mask", "weights", "prefix"):
            if getattr(self, name) is not None:
                raise UserError(f"--{name} is for checkpoints, this is {what}: leave it out")
        if self.inputs:
            raise UserError(f"--input is for checkpoints, this is {what}: state sizes with --shape")


@dataclass(frozen=True)
class ShrinkRequest:
    """The arguments of ``shrink``, checked; fields have the names of its parameters.

    ``source`` is the file that ``model`` names, or ``IN_MEMORY``; ``call`` are the example inputs
    of a module in memory; ``pytorch`` are the files of the network for PyTorch.
    """

    model: Model
    source: Path
    output: Path
    options: CheckpointOptions
    call: Call | None
    zero_threshold: float
    input_range: Stated | None
    align: Align
    target: targets.Target
    pytorch: Outputs
    progress: Progress


def check_request(
    model: Model,
    output: str | Path | None,
    options: CheckpointOptions,
    call: Call | None = None,
    *,
    zero_threshold: float = 0.0,
    input_range: Stated | None = None,
    align: Align = "auto",
    target: str = "host",
    pt: str | Path | None = None,
    state_dict: str | Path | None = None,
    progress: Progress | None = None,
) -> ShrinkRequest:
    """The arguments of ``shrink`` as a request that can be carried out.

    Raises:
        UserError: a number makes no sense, there is no such target, or a file cannot be written
            where it was asked for.
    """
    if not 0.0 <= zero_threshold < float("inf"):
        raise UserError(f"a zero threshold of {zero_threshold} makes no sense: give a small number")
    if align != "auto" and (not isinstance(align, int) or align < 1):
        raise UserError(f"channels cannot be aligned to {align!r}: give a number from 1, or auto")
    machine = targets.by_name(target)
    source = checkpoint.find(model) if isinstance(model, str | Path) else IN_MEMORY
    path = _output(source, output, stem_of(model))
    if is_module(model):
        options.refuse_for("a module in memory")
    elif source == IN_MEMORY or is_onnx(source):
        options.refuse_for("an ONNX model")
        if state_dict is not None:
            raise UserError(
                "a state_dict needs a torch checkpoint, this is an ONNX model: take --pt"
            )
    taken = (source, path, path.with_suffix(".json"), path.with_suffix(".dense.onnx"))
    return ShrinkRequest(
        model=model,
        source=source,
        output=path,
        options=_with_shape(options, call),
        call=call if is_module(model) else None,
        zero_threshold=zero_threshold,
        input_range=input_range,
        align=align,
        target=machine,
        pytorch=Outputs.at(taken, pt, state_dict),
        progress=logged(progress),
    )


def is_module(model: object) -> TypeIs[nn.Module]:
    """True for a torch module."""
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    return torch is not None and isinstance(model, torch.nn.Module)


def stem_of(model: Model) -> str:
    """The name of what is written for ``model``: that of its file, or of its class."""
    if isinstance(model, str | Path):
        return checkpoint.name_of(model)
    return type(unwrapped(model)).__name__ if is_module(model) else "model"


def _with_shape(options: CheckpointOptions, call: Call | None) -> CheckpointOptions:
    """The options with the shape of the example inputs.

    Raises:
        UserError: another shape was given as well.
    """
    if call is None:
        return options
    shape = tuple(call.tensors[0].shape)
    if options.input_shape is not None and tuple(options.input_shape) != shape:
        raise UserError("the example inputs have another shape than input_shape: give one of them")
    return replace(options, input_shape=shape)


def batch_shape(options: CheckpointOptions) -> tuple[int, ...] | None:
    """The shape of one batch of a checkpoint's first input, as the options state it.

    Raises:
        UserError: they state several, and not what else is to be known of them.
    """
    if options.inputs:
        return options.inputs[0].shape
    if options.input_shape is not None:
        return tuple(options.input_shape)
    if len(options.shapes) > 1:
        raise UserError("state several inputs of a checkpoint with --input NAME=int64[1,128]")
    shape = next(iter(options.shapes.values()), None)
    if shape is not None and None in shape[1:]:
        raise UserError(
            "a checkpoint is exported at one size: state all sizes of --shape but the batch, or "
            "export an ONNX model of open sizes, and take that"
        )
    return None if shape is None else tuple(1 if size is None else size for size in shape)


def is_onnx(source: Path) -> bool:
    """True for an ONNX file; a model in memory is none."""
    return source != IN_MEMORY and source.is_file() and checkpoint.kind(source) == "onnx"


def _output(source: Path, output: str | Path | None, stem: str) -> Path:
    path = Path(output) if output is not None else Path(f"{stem}.shrunk.onnx")
    if path.suffix != ".onnx":
        raise UserError(f"the output {path} should end in .onnx")
    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"{path} is the input: name another output with -o")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is not a folder")
    _refuse_foreign(path.with_suffix(".json"))
    return path


def _refuse_foreign(record: Path) -> None:
    """Refuse to replace a file that is no result of shrink: it may be somebody's configuration."""
    if not record.exists():
        return
    try:
        files.from_json(ShrinkResult, files.read_text(record))
    except (OSError, UnicodeDecodeError, UserError):
        raise UserError(
            f"{record} would be replaced, and is not a record of shrink: name another output"
        ) from None
