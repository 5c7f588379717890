"""The arguments of ``shrink``, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from prunedeploy import checkpoint, targets
from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import ShrinkResult
from prunedeploy.graph.fixed_shapes import Shapes
from prunedeploy.graph.input_range import Stated
from prunedeploy.shrinking.example_inputs import ExampleInput
from prunedeploy.to_torch import Outputs

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    Model: TypeAlias = str | Path | onnx.ModelProto | gs.Graph

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

    def refuse_for_onnx(self) -> None:
        """Refuse what an ONNX model has no use for.

        Raises:
            UserError: an option for checkpoints alone was given.
        """
        for name in ("arch", "mask", "weights", "prefix"):
            if getattr(self, name) is not None:
                raise UserError(f"--{name} is for checkpoints, this is an ONNX model: leave it out")
        if self.inputs:
            raise UserError("--input is for checkpoints: state an ONNX model's sizes with --shape")


@dataclass(frozen=True)
class ShrinkRequest:
    """The arguments of ``shrink``, checked; fields have the names of its parameters.

    ``source`` is the file that ``model`` names, or ``IN_MEMORY``; ``pytorch`` are the files of the
    network for PyTorch.
    """

    model: Model
    source: Path
    output: Path
    options: CheckpointOptions
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
    *,
    zero_threshold: float,
    input_range: Stated | None,
    align: Align,
    target: str,
    pt: str | Path | None,
    state_dict: str | Path | None,
    progress: Progress | None,
) -> ShrinkRequest:
    """The arguments of ``shrink`` as a request that can be carried out.

    Raises:
        UserError: a number makes no sense, there is no such target, or a file cannot be written
            where it was asked for.
    """
    is_stored = isinstance(model, str | Path)
    name = checkpoint.name_of(model) if is_stored else str(IN_MEMORY)
    if not 0.0 <= zero_threshold < float("inf"):
        raise UserError(f"a zero threshold of {zero_threshold} makes no sense: give a small number")
    if align != "auto" and (not isinstance(align, int) or align < 1):
        raise UserError(f"channels cannot be aligned to {align!r}: give a number from 1, or auto")
    machine = targets.by_name(target)
    path = Path(output) if output is not None else Path(f"{name}.shrunk.onnx")
    source = checkpoint.find(model) if is_stored else IN_MEMORY
    _check_output(path, source)
    if source == IN_MEMORY or is_onnx(source):
        options.refuse_for_onnx()
        if state_dict is not None:
            raise UserError(
                "a state_dict needs a torch checkpoint, this is an ONNX model: take --pt"
            )
    taken = (source, path, path.with_suffix(".json"), path.with_suffix(".dense.onnx"))
    return ShrinkRequest(
        model=model,
        source=source,
        output=path,
        options=options,
        zero_threshold=zero_threshold,
        input_range=input_range,
        align=align,
        target=machine,
        pytorch=Outputs.at(taken, pt, state_dict),
        progress=progress or (lambda _: None),
    )


def is_onnx(source: Path) -> bool:
    """True for an ONNX file; a model in memory is none."""
    return source != IN_MEMORY and source.is_file() and checkpoint.kind(source) == "onnx"


def _check_output(path: Path, source: Path) -> None:
    if path.suffix != ".onnx":
        raise UserError(f"the output {path} should end in .onnx")
    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"{path} is the input: name another output with -o")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder")
    _refuse_foreign(path.with_suffix(".json"))


def _refuse_foreign(record: Path) -> None:
    """Refuse to replace a file that is no result of shrink: it may be somebody's configuration."""
    if not record.exists():
        return
    try:
        files.from_json(ShrinkResult, record.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, UserError):
        raise UserError(
            f"{record} would be replaced, and is not a record of shrink: name another output"
        ) from None
