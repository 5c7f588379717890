"""The route from a trained checkpoint to a shrunk model, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from prunedeploy import passes
from prunedeploy.core import files
from prunedeploy.core.errors import naming_file
from prunedeploy.core.records import (
    Array,
    CrossCheck,
    Difference,
    InputRange,
    PassReport,
    PassResult,
    ShrinkResult,
    ShrinkVariant,
)
from prunedeploy.graph import input_range as input_ranges
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.fixed_shapes import Shapes
from prunedeploy.graph.input_range import Stated
from prunedeploy.passes.analysis.unvarying import unconnected_outputs, unvarying_outputs
from prunedeploy.reference import second_oracle, verify
from prunedeploy.shrinking.example_inputs import ExampleInput
from prunedeploy.shrinking.examples import call_and_output
from prunedeploy.shrinking.expected import Expected, expected_of, random_feeds, run
from prunedeploy.shrinking.loading import Loaded, load_model, refuse_nan
from prunedeploy.shrinking.request import (
    IN_MEMORY,
    Align,
    CheckpointOptions,
    Progress,
    ShrinkRequest,
    check_request,
    is_onnx,
)
from prunedeploy.to_torch import write_program, write_state

if TYPE_CHECKING:
    from prunedeploy.shrinking.examples import ExampleInputs
    from prunedeploy.shrinking.request import Model


def shrink(
    model: Model,
    example_inputs: ExampleInputs | str | Path | None = None,
    output: str | Path | None = None,
    *,
    arch: str | None = None,
    input_shape: Sequence[int] | None = None,
    trust: bool = False,
    mask: str | Path | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    inputs: Sequence[ExampleInput] = (),
    shapes: Shapes | None = None,
    zero_threshold: float = 0.0,
    input_range: Stated | None = None,
    align: Align = "auto",
    target: str = "host",
    pt: str | Path | None = None,
    state_dict: str | Path | None = None,
    progress: Progress | None = None,
) -> ShrinkResult:
    """Load a network, run the passes, verify the result against it, and write it.

    Args:
        model: a checkpoint or an ONNX file, a folder with one, or ``owner/name`` of the Hugging
            Face hub; or in memory a torch module, an ONNX model or a graphsurgeon graph. A module
            may be in either mode, on any device, with masks and parametrizations; it is left as it
            is, and taken as it computes in eval mode.
        example_inputs: for a module: a tensor, several in order, or several by name, as its forward
            takes them; the first axis is the batch. For a checkpoint the shape alone counts.
            A path in this place is ``output``.
        output: the model to write, by default ``<name>.shrunk.onnx`` in the current folder.
            ``<name>.shrunk.json`` holds the result, and for a checkpoint
            ``<name>.shrunk.dense.onnx`` the exported network before the passes.
        arch: architecture of a checkpoint, where it cannot be recognised.
        input_shape: of one batch; known for recognised architectures.
        trust: allow a checkpoint to run code while it is loaded.
        mask: a file of masks that goes with the checkpoint.
        weights: which of several sets of weights in it, by its key or the prefix of its names.
        prefix: take the tensors alone whose names begin with it, without it.
        inputs: what the network of a checkpoint takes, where that is more than one tensor of floats
            (see ``prunedeploy.shrinking.example_inputs.parse``).
        shapes: sizes of inputs by their names, which both models then have; None in the place of a
            size leaves it open.
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
        progress: called with a line at each step.

    Returns:
        The sizes before and after, what each pass did, the files, and the largest difference.

    Raises:
        UserError: anything about the input or the output's path that the user can mend.
        PassError: a bug of a pass that the verification caught; nothing is written.

    Example:
        >>> import prunedeploy
        >>> done = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
        >>> done.before.parameters, done.after.parameters, done.difference.passed
        (592, 148, True)

        A module in memory:

        >>> import torch
        >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> prunedeploy.shrink(module, torch.zeros(1, 3, 8, 8)).model.name
        'Sequential.shrunk.onnx'
    """
    call, path = call_and_output(example_inputs, output)
    request = check_request(
        model,
        path,
        CheckpointOptions(
            *(arch, input_shape, trust, mask, weights, prefix), tuple(inputs), shapes or {}
        ),
        call,
        zero_threshold=zero_threshold,
        input_range=input_range,
        align=align,
        target=target,
        pt=pt,
        state_dict=state_dict,
        progress=progress,
    )
    return carry_out(request)


def carry_out(request: ShrinkRequest) -> ShrinkResult:
    """``shrink`` with its arguments as one record.

    Raises:
        UserError, PassError: as ``shrink``.
    """
    begin = time.perf_counter()
    request.progress(f"loading {request.source}")
    loaded = load_model(request)
    with contextlib.nullcontext() if request.source == IN_MEMORY else naming_file(request.source):
        return _carry_out(request, loaded, begin)


def _carry_out(request: ShrinkRequest, loaded: Loaded, begin: float) -> ShrinkResult:
    loaded, ranges = _with_ranges(request, loaded)
    request.progress("running the model as it is")
    expected = expected_of(loaded.program, loaded.shape)
    unconnected = unconnected_outputs(loaded.program)
    with contextlib.ExitStack() as stack:  # all files get their names at the end, or none does
        dense = _write_dense(request, loaded.program, stack)
        before = models.stats(dense.temporary, expected.shapes)
        if request.pytorch.state_dict is not None:
            _write_state_dict(request, loaded, expected, stack)
            loaded = replace(loaded, module=None, plain=None)
        cut = _cut(request, loaded, expected)
        shrunk, loaded = cut.program, replace(loaded, program=cut.program)
        request.progress("writing")
        verified = _verify(shrunk, expected, dense.temporary)
        if request.pytorch.pt is not None:
            file = stack.enter_context(files.atomic_path(request.pytorch.pt))
            write_program(file, shrunk, expected.feeds, verified.outputs, loaded.buffers)
        written = _write_model(request, shrunk, stack)
        result = ShrinkResult(
            source=request.source,
            model=request.output,
            dense=dense.path,
            model_sha256=models.sha256(written),
            dense_sha256=models.sha256(dense.temporary),
            arch=loaded.arch,
            found=loaded.notes,
            before=before,
            after=models.stats(written, expected.shapes),
            difference=verified.difference,
            passes=cut.reports,
            seconds=time.perf_counter() - begin,
            mean=loaded.mean,
            std=loaded.std,
            input_ranges=ranges,
            align=cut.align,
            variants=cut.variants,
            pt=request.pytorch.pt,
            state_dict=request.pytorch.state_dict,
            cross_checks=(expected.cross_check, verified.cross_check),
            unvarying=_unvarying(shrunk, unconnected),
        )
        _write_record(request, result, stack)
    return result


@dataclass(frozen=True)
class _Dense:
    """The model before the passes: where it will be, and where it is until all is written."""

    path: Path
    temporary: Path


@dataclass(frozen=True)
class _Cut:
    """The model after the passes, their reports, and the variants that were compared."""

    program: ir.Model
    reports: tuple[PassReport, ...]
    align: int
    variants: tuple[ShrinkVariant, ...] = ()


@dataclass(frozen=True)
class _Verified:
    """The shrunk model's outputs in the first run, and how far all are from those expected."""

    outputs: dict[str, Array]
    difference: Difference
    cross_check: CrossCheck


def _with_ranges(request: ShrinkRequest, loaded: Loaded) -> tuple[Loaded, dict[str, InputRange]]:
    """The model, and what its inputs are stated to lie within, which is written into it too."""
    if request.pytorch.state_dict is None:
        # its weights are the program's alone from here on
        loaded = replace(loaded, module=None, plain=None)
    refuse_nan(loaded.program)
    inputs, _ = models.specs(loaded.program)
    ranges = input_ranges.resolve(request.input_range, inputs, loaded.mean, loaded.std)
    input_ranges.attach(loaded.program, ranges)
    return loaded, ranges


def _write_dense(request: ShrinkRequest, program: ir.Model, stack: contextlib.ExitStack) -> _Dense:
    """The exported network of a checkpoint, or a model with its sizes, in a file of its own; an
    ONNX file as it is."""
    if is_onnx(request.source) and not request.options.shapes:
        return _Dense(request.source, request.source)
    path = request.output.with_suffix(".dense.onnx")
    temporary = stack.enter_context(files.atomic_group(path))
    models.save(program, temporary)
    return _Dense(path, temporary)


def _write_state_dict(
    request: ShrinkRequest, loaded: Loaded, expected: Expected, stack: contextlib.ExitStack
) -> None:
    """The sliced state_dict of a checkpoint's module, and its plan."""
    assert request.pytorch.state_dict is not None
    assert loaded.module is not None
    assert loaded.plain is not None
    request.progress("slicing the module")
    file = stack.enter_context(files.atomic_path(request.pytorch.state_dict))
    plain = preparation.prepare(loaded.plain())
    write_state(file, loaded.module, plain, expected.feeds, request.zero_threshold, loaded.arch)


def _cut(request: ShrinkRequest, loaded: Loaded, expected: Expected) -> _Cut:
    """Run the passes; ``loaded.program`` is used up."""
    if request.align == "auto":
        return _fastest(request, loaded, expected.feeds)
    return _aligned(request, request.align, loaded.program, expected.feeds)


def _aligned(
    request: ShrinkRequest, align: int, program: ir.Model, feeds: dict[str, Array]
) -> _Cut:
    """All passes, with channels kept for multiples of ``align``."""
    zero = request.zero_threshold
    steps = (
        *passes.before_cuts(zero),
        passes.ShrinkChannels(zero, align),
        *passes.after_cuts(zero, request.target.name),
    )
    return _Cut(program, passes.run(program, steps, feeds, request.progress), align)


def _fastest(request: ShrinkRequest, loaded: Loaded, feeds: dict[str, Array]) -> _Cut:
    """The variant that is fastest on the target."""
    # measuring imports what shrinking alone does not need
    from prunedeploy.shrinking import variants

    program, zero = loaded.program, request.zero_threshold
    one = random_feeds(program, loaded.shape, batch=1)
    judge = variants.Judge(request.target, one, request.progress)
    original = program.clone()
    before = passes.before_cuts(zero, larger=judge.folds_larger(program))
    reports = passes.run(program, before, feeds, request.progress)
    begin = time.perf_counter()
    choice = judge.choose(original, program, zero)
    result = PassResult(False, (variants.note(request.target, choice),))
    chosen = PassReport(variants.STEP, result, time.perf_counter() - begin, None)
    if choice.original:
        return _Cut(original, (chosen,), choice.align, choice.variants)
    reports += (chosen, *passes.run(program, choice.steps, feeds, request.progress))
    return _Cut(program, reports, choice.align, choice.variants)


def _verify(program: ir.Model, expected: Expected, dense: Path) -> _Verified:
    """Hold the shrunk model against the outputs of the model as it was.

    Raises:
        UserError: the second oracle disagrees with the reference about it.
    """
    runs = [(feeds, run(program, feeds)) for feeds, _ in expected.runs]
    differences = []
    for (feeds, outputs), (_, wanted) in zip(runs, expected.runs, strict=True):
        difference = verify.compare(wanted, outputs, expected.tolerance)
        differences.append(verify.exactly(difference, dense, program, feeds))
    check = second_oracle.check_all(program, runs, "the shrunk model")
    return _Verified(runs[0][1], verify.worst(differences), check)


def _unvarying(program: ir.Model, unconnected: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs that pruning has cut off from the inputs; not those that never were connected."""
    return tuple(name for name in unvarying_outputs(program) if name not in unconnected)


def _write_model(request: ShrinkRequest, program: ir.Model, stack: contextlib.ExitStack) -> Path:
    """The shrunk model in its temporary file."""
    file = stack.enter_context(files.atomic_group(request.output))
    models.save(program, file)
    return file


def _write_record(
    request: ShrinkRequest, result: ShrinkResult, stack: contextlib.ExitStack
) -> None:
    file = stack.enter_context(files.atomic_path(request.output.with_suffix(".json")))
    file.write_text(files.to_json(result))
