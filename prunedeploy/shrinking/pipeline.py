"""The route from a trained checkpoint to a shrunk model, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from prunedeploy import checkpoint, passes, targets
from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, PassReport, PassResult, ShrinkResult, ShrinkVariant
from prunedeploy.graph import input_range as input_ranges
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.input_range import Stated
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.randomness import refuse_random
from prunedeploy.shrinking.export import to_model
from prunedeploy.to_torch import Outputs, write_program, write_state

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from torch import nn

Progress = Callable[[str], None]
IN_MEMORY = Path("in memory")


@dataclass(frozen=True)
class Loaded:
    """A model ready for the passes, and what is known of where it came from."""

    program: ir.Model
    shape: Sequence[int] | None
    found: tuple[str, ...] = ()
    arch: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    module: nn.Module | None = None  # of a checkpoint
    buffers: frozenset[str] = frozenset()  # names of what it does not train


def shrink(
    model: str | Path | onnx.ModelProto | gs.Graph,
    output: str | Path | None = None,
    *,
    arch: str | None = None,
    input_shape: Sequence[int] | None = None,
    trust: bool = False,
    mask: str | Path | None = None,
    weights: str | None = None,
    zero_threshold: float = 0.0,
    input_range: Stated | None = None,
    align: int | Literal["auto"] = "auto",
    target: str = "host",
    pt: str | Path | None = None,
    state_dict: str | Path | None = None,
    progress: Progress | None = None,
) -> ShrinkResult:
    """Load, export, run the passes, verify, write.

    Args:
        model: a checkpoint, an ONNX file, or an ONNX model or graphsurgeon graph in memory.
        output: the model to write, by default ``<name>.shrunk.onnx`` in the current folder.
            ``<name>.shrunk.json`` holds the result, and for a checkpoint
            ``<name>.shrunk.dense.onnx`` the exported network before the passes.
        arch: architecture of a checkpoint, where it cannot be recognised.
        input_shape: of one batch; known for recognised architectures.
        trust: allow a checkpoint to run code while it is loaded.
        mask: a file of masks that goes with the checkpoint.
        weights: which of several sets of weights in it, by its key or the prefix of its names.
        zero_threshold: weights up to this size count as zero (see ``passes/analysis/zero.py``).
        input_range: what inputs lie within: (low, high), numbers or one a channel; by name where
            there are several inputs; or "recipe", pixels in [0, 1] as the recipe normalises them.
            The result is the same network within it only; the model's metadata says so.
        align: keep dead channels where they make a layer's output channels a multiple of this; 1
            keeps none. "auto" takes the variant that is fastest on ``target``, measured if it is
            this machine (see ``prunedeploy.shrinking.variants``), and leaves the network as it came
            where every other is slower.
        target: a name of ``targets.TARGETS``, for ``align``.
        pt: also write the shrunken network there as a torch.export program (``.pt2``).
        state_dict: also write there the smaller state_dict of the checkpoint's own module, and
            the plan for ``apply_plan``; only for checkpoints.
        progress: told what is being done.

    Raises:
        UserError: anything about the input or the output's place that the user can mend.
        PassError: a bug of ours that the verification caught; nothing is written.
    """
    begin = time.perf_counter()
    say = progress or (lambda _: None)
    source = Path(model) if isinstance(model, str | Path) else IN_MEMORY
    if not 0.0 <= zero_threshold < float("inf"):
        raise UserError(f"a zero threshold of {zero_threshold} makes no sense: give a small number")
    machine = _machine(align, target)
    place = _output(source, output)
    if state_dict is not None and (source == IN_MEMORY or _is_onnx(source)):
        raise UserError("a state_dict needs a torch checkpoint, this is an ONNX model: take --pt")
    beside = [place.with_suffix(suffix) for suffix in (".json", ".dense.onnx")]
    back = Outputs.at((source, place, *beside), pt, state_dict)
    say(f"loading {source}")
    loaded = _load(model, source, arch, input_shape, trust, mask, weights, say)
    program, module = loaded.program, loaded.module if state_dict is not None else None
    loaded = replace(loaded, module=None)  # its weights are the program's, until passes change them
    _refuse_nan(program)
    ranges = input_ranges.resolve(input_range, models.specs(program)[0], loaded.mean, loaded.std)
    input_ranges.attach(program, ranges)
    say("running the model as it is")
    feeds, expected = _reference(program, loaded.shape)
    allowed = verify.tolerances_of(program)
    checks = [second_oracle.check(program, feeds, expected, "the model as it is")]
    shapes = {name: array.shape for name, array in feeds.items()}
    with contextlib.ExitStack() as stack:
        dense = source
        if not _is_onnx(source):
            dense = place.with_suffix(".dense.onnx")
            dense_file = stack.enter_context(files.atomic_group(dense))
            models.save(program, dense_file)
        else:
            dense_file = source
        before = models.stats(dense_file, shapes)
        if back.state_dict is not None:
            say("slicing the module")
            assert module is not None
            assert loaded.shape is not None
            file = stack.enter_context(files.atomic_path(back.state_dict))
            plain = preparation.prepare(to_model(module, loaded.shape, optimize=False))
            write_state(file, module, plain, feeds, zero_threshold, loaded.arch)
            del module, plain
        if align == "auto":
            program, cut = _fastest(program, machine, loaded.shape, zero_threshold, feeds, say)
        else:
            cut = _aligned(program, align, target, zero_threshold, feeds, say)
        say("writing")
        outputs = _run(program, feeds)
        difference = verify.compare(expected, outputs, allowed)
        difference = verify.exactly(difference, dense_file, program, feeds)
        checks.append(second_oracle.check(program, feeds, outputs, "the shrunk model"))
        if back.pt is not None:
            file = stack.enter_context(files.atomic_path(back.pt))
            write_program(file, program, feeds, outputs, loaded.buffers)
        model_file = stack.enter_context(files.atomic_group(place))
        models.save(program, model_file)
        result = ShrinkResult(
            source=source,
            model=place,
            dense=dense,
            model_sha256=models.sha256(model_file),
            dense_sha256=models.sha256(dense_file),
            arch=loaded.arch,
            found=loaded.found,
            before=before,
            after=models.stats(model_file, shapes),
            difference=difference,
            passes=cut.reports,
            seconds=time.perf_counter() - begin,
            mean=loaded.mean,
            std=loaded.std,
            input_ranges=ranges,
            align=cut.align,
            variants=cut.variants,
            pt=back.pt,
            state_dict=back.state_dict,
            cross_checks=tuple(checks),
        )
        record = stack.enter_context(files.atomic_path(place.with_suffix(".json")))
        record.write_text(files.to_json(result))
    return result


def _machine(align: int | str, name: str) -> targets.Target:
    if align != "auto" and (not isinstance(align, int) or align < 1):
        raise UserError(f"channels cannot be aligned to {align!r}: give a number from 1, or auto")
    return targets.by_name(name)


@dataclass(frozen=True)
class _Cut:
    """What the passes did: their reports, the multiple of channels, what was compared."""

    reports: tuple[PassReport, ...]
    align: int
    variants: tuple[ShrinkVariant, ...] = ()


def _aligned(
    program: ir.Model,
    align: int,
    target: str,
    zero_threshold: float,
    feeds: dict[str, Array],
    say: Progress,
) -> _Cut:
    """All passes over ``program``, in place, channels kept for multiples of ``align``."""
    step = passes.ShrinkChannels(zero_threshold, align)
    steps = (*passes.before_cuts(zero_threshold), step)
    steps += passes.after_cuts(zero_threshold, target)
    return _Cut(passes.run(program, steps, feeds, say), align)


def _fastest(
    program: ir.Model,
    machine: targets.Target,
    shape: Sequence[int] | None,
    zero_threshold: float,
    feeds: dict[str, Array],
    say: Progress,
) -> tuple[ir.Model, _Cut]:
    """The variant of ``program`` that is fastest on ``machine``; ``program`` is used up."""
    from prunedeploy.shrinking import (
        variants,  # measuring imports what shrinking alone does not need
    )

    judge = variants.Judge(machine, _feeds(program, shape, batch=1), say)
    original = program.clone()
    before = passes.before_cuts(zero_threshold, larger=judge.folds_larger(program))
    reports = passes.run(program, before, feeds, say)
    begin = time.perf_counter()
    choice = judge.choose(original, program, zero_threshold)
    result = PassResult(False, (variants.note(machine, choice),))
    chosen = PassReport("choose-variant", result, time.perf_counter() - begin, None)
    if choice.original:
        return original, _Cut((chosen,), choice.align, choice.variants)
    reports += (chosen, *passes.run(program, choice.steps, feeds, say))
    return program, _Cut(reports, choice.align, choice.variants)


def _is_onnx(source: Path) -> bool:
    return source != IN_MEMORY and source.is_file() and checkpoint.kind(source) == "onnx"


def _output(source: Path, output: str | Path | None) -> Path:
    target = Path(output) if output is not None else Path(f"{source.stem}.shrunk.onnx")
    if target.suffix != ".onnx":
        raise UserError(f"the output {target} should end in .onnx")
    if os.path.realpath(target) == os.path.realpath(source):
        raise UserError(f"{target} is the input: name another output with -o")
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: {target.parent} is not a folder")
    _refuse_foreign(target.with_suffix(".json"))
    return target


def _refuse_foreign(record: Path) -> None:
    """Only a record of ours is replaced: the name may be that of somebody's configuration."""
    if not record.exists():
        return
    try:
        files.from_json(ShrinkResult, record.read_text())
    except (OSError, UnicodeDecodeError, UserError):
        raise UserError(
            f"{record} would be replaced, and is not a record of shrink: name another output"
        ) from None


def load(
    source: Path,
    *,
    arch: str | None = None,
    trust: bool = False,
    mask: Path | None = None,
    weights: str | None = None,
) -> Loaded:
    """A checkpoint or an ONNX file as a model ready for the passes.

    Raises:
        UserError: it cannot be read or exported.
    """
    return _load(source, source, arch, None, trust, mask, weights, lambda _: None)


def _load(
    model: str | Path | onnx.ModelProto | gs.Graph,
    source: Path,
    arch: str | None,
    input_shape: Sequence[int] | None,
    trust: bool,
    mask: str | Path | None,
    weights: str | None,
    say: Progress,
) -> Loaded:
    if not isinstance(model, str | Path):
        prepared = _from_memory(model)
        return Loaded(prepared.model, input_shape, prepared.notes)
    if _is_onnx(source):
        prepared = preparation.from_file(source)
        return Loaded(prepared.model, input_shape, ("ONNX model", *prepared.notes))
    found = checkpoint.load(source, arch=arch, trust=trust, mask=mask, weights=weights)
    shape = input_shape or found.input_shape
    if shape is None:
        raise UserError(f"the input shape of {source} is not known: give it with --input-shape")
    say(f"exporting {found.arch or source} at {'x'.join(map(str, shape))}")
    program = preparation.prepare(to_model(found.module, shape))
    buffers = frozenset(name for name, _ in found.module.named_buffers())
    mean, std = _normalisation(found, shape[1])
    return Loaded(program, shape, found.found, found.arch, mean, std, found.module, buffers)


def _normalisation(
    found: checkpoint.Checkpoint, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How pixels in [0, 1] are normalised, where the recipe says and has as many channels."""
    from torch import nn

    if found.recipe is None or len(found.recipe.mean) != channels:
        return (), ()
    if not isinstance(getattr(found.module, "normalize", nn.Identity()), nn.Identity):
        return (0.0,) * channels, (1.0,) * channels
    return found.recipe.mean, found.recipe.std


def _from_memory(model: onnx.ModelProto | gs.Graph) -> preparation.Prepared:
    import onnx

    if isinstance(model, onnx.ModelProto):
        return preparation.from_proto(model)
    import onnx_graphsurgeon as gs

    proto: onnx.ModelProto = gs.export_onnx(model)
    return preparation.from_proto(proto)


def _refuse_nan(program: ir.Model) -> None:
    """NaN is never meant; infinity may be, in a mask or a bound, but not in a layer's weights."""
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


def _feeds(program: ir.Model, shape: Sequence[int] | None, batch: int = 2) -> dict[str, Array]:
    inputs, _ = models.specs(program)
    known: dict[str, int] = {}
    if shape is not None and inputs:
        wanted = tuple(inputs[0].shape[:1]) + tuple(shape[1:])
        named = zip(inputs[0].shape[1:], shape[1:], strict=False)
        known = {dim: size for dim, size in named if isinstance(dim, str) and dim != "?"}
        inputs = (replace(inputs[0], shape=wanted), *inputs[1:])
    return verify.random_feeds(inputs, batch, known=known)


def _reference(
    program: ir.Model, shape: Sequence[int] | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs to verify on, and what the model makes of them.

    Raises:
        UserError: an output holds no finite number, whatever the sign of the inputs: nothing
            could be compared.
    """
    feeds = _feeds(program, shape)
    refuse_random(program, feeds)
    outputs = _run(program, feeds)
    if not _comparable(outputs):
        stated = {spec.name for spec in models.specs(program)[0] if spec.range is not None}
        feeds = {k: array if k in stated else np.abs(array) for k, array in feeds.items()}
        outputs = _run(program, feeds)
    if not _comparable(outputs):
        raise UserError("the model's outputs are not finite on random inputs: nothing to verify")
    return feeds, outputs


def _comparable(outputs: dict[str, Array]) -> bool:
    floats = [array for array in outputs.values() if array.dtype.kind == "f" and array.size]
    return all(np.isfinite(array).any() for array in floats)


def _run(program: ir.Model, feeds: dict[str, Array]) -> dict[str, Array]:
    evaluator = Evaluator(program)
    try:
        return evaluator.run(feeds)
    except UserError as error:
        inputs, _ = models.specs(program)
        if all(isinstance(dim, int) for spec in inputs for dim in spec.shape[1:]):
            raise
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise UserError(f"{error}; it was given {shapes}: see --input-shape") from error
