"""Writes a model in the opset, IR version and precision that a target's own software takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from prunedeploy import passes, targets
from prunedeploy.core import files
from prunedeploy.core.errors import OutputError, UserError, naming_file
from prunedeploy.core.records import Array, Difference, PassReport
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.fixed_shapes import Shapes, fix
from prunedeploy.passes.opset import OLDEST, LowerOpset
from prunedeploy.passes.opset.raise_opset import RaiseOpset
from prunedeploy.passes.opset.widened import NEWEST
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.fitting import fitted
from prunedeploy.reference.source_model import SourceModel, check_source
from prunedeploy.runtimes.api import native

Precision = Literal["float32", "float16", "int8"]
Weights = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class LowerResult:
    """The model that ``lower`` wrote; ``difference`` compares it with the source on the feeds."""

    source: Path
    model: Path
    model_sha256: str
    opset: int
    ir_version: int
    precision: Precision
    weights: Weights
    difference: Difference
    passes: tuple[PassReport, ...]
    found: tuple[str, ...] = ()  # what was put right in the source


def lower(
    model: str | Path,
    output: str | Path | None = None,
    *,
    target: str = "host",
    precision: Precision = "float32",
    weights: Weights = "float32",
    opset: int | None = None,
    ir_version: int | None = None,
    feeds: Mapping[str, Array] | None = None,
    keep: Sequence[str] = (),
    budget: float | None = None,
    shapes: Shapes | None = None,
    suffix: str = "",
) -> LowerResult:
    """Write ``model`` in the opset, IR version and precision that ``target`` takes.

    Args:
        model: an ONNX file.
        output: the file to write, ``<model>.<target>.<precision>.onnx`` by default; with rounded
            weights ``<model>.<target>.<weights>-weights.onnx``.
        target: a name of ``targets.TARGETS``, whose toolchain says what it takes.
        precision: float16 and int8 are not exact; what they cost is measured and reported.
        weights: what those of linear layers on a few positions are rounded to; the model stays
            float32, and the sparse runtime stores them in two bytes. Not exact either.
        opset: instead of the target's. A model in an older one is written in the target's where
            that can be, and always in one that is given here.
        ir_version: instead of the target's; 0 for the oldest that goes with the opset.
        feeds: calibration inputs; random ones where there are none, which int8 does not take.
        keep: names of nodes that stay in float32, or whose weights do.
        budget: for int8: the most that the outputs may be off, relative to their range.
        shapes: sizes of inputs that the model leaves open, by their names; the file has them.
        suffix: what the name of the file has before its ``.onnx``, as the size of several.

    Returns:
        The file that was written, and how far its outputs are from the model's.

    Raises:
        UserError: the target cannot compute so, or a node has no such form; it is named.
        OracleError: ONNX Runtime computes something else than the reference.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.lower("net.onnx", target="jetson-nano").difference.passed
        True
    """
    request = _check_request(
        *(Path(model), targets.by_name(target), output, precision, weights),
        keep=frozenset(keep),
        budget=budget,
        suffix=suffix,
    )
    prepared = preparation.from_file(request.source)
    fix(prepared.model, shapes or {})
    with naming_file(request.source):
        return _lower(request, prepared, opset, ir_version, feeds)


@dataclass(frozen=True)
class _Request:
    """A checked request; ``form`` names it for people, by the number type that is not float32."""

    source: Path
    target: targets.Target
    output: Path
    precision: Precision
    weights: Weights
    form: str
    keep: frozenset[str]
    budget: float | None


@dataclass(frozen=True)
class _Versions:
    """The model's opset, the one to write, and the IR version; 0 leaves that to the opset."""

    before: int
    opset: int
    ir_version: int


def _lower(
    request: _Request,
    prepared: preparation.Prepared,
    opset: int | None,
    ir_version: int | None,
    feeds: Mapping[str, Array] | None,
) -> LowerResult:
    """``lower`` of a model that was read, for a request that was checked."""
    versions = _versions(prepared.model, request.target, opset, ir_version)
    steps, given = _passes(request, versions, prepared.model, feeds)
    source = check_source(prepared.model, given, prepared.notes)
    before = Evaluator(source.program).run(given)
    second_oracle.check(source.program, given, before, str(request.source))
    reports = passes.run(source.program, steps, given)
    _refuse_undone(reports, request.form, versions, opset is not None)
    difference = _difference(request, source, given, before)
    with files.atomic_group(request.output) as temporary:
        models.save(source.program, temporary)
        digest = models.sha256(temporary)
    return LowerResult(
        source=request.source,
        model=request.output,
        model_sha256=digest,
        opset=_opset(source.program),
        ir_version=int(source.program.ir_version or 0),
        precision=request.precision,
        weights=request.weights,
        difference=difference,
        passes=reports,
        found=source.notes,
    )


def _check_request(
    source: Path,
    target: targets.Target,
    output: str | Path | None,
    precision: Precision,
    weights: Weights,
    *,
    keep: frozenset[str],
    budget: float | None,
    suffix: str,
) -> _Request:
    if weights != "float32" and precision != "float32":
        raise UserError(
            f"a model in {precision} has its weights in {precision}: give one of the two"
        )
    form = precision if weights == "float32" else f"{weights} weights"
    path = Path(output or f"{source.stem}.{target.name}.{form.replace(' ', '-')}.onnx")
    if path.suffix != ".onnx" or os.path.realpath(path) == os.path.realpath(source):
        raise OutputError(f"cannot write {path}: name another file that ends in .onnx")
    if suffix:
        path = path.with_suffix(f".{suffix}.onnx")
    limits = target.toolchain
    if limits is not None and precision not in limits.precisions:
        known = ", ".join(limits.precisions)
        raise UserError(f"{target.name} does not compute in {precision}: {limits.name} has {known}")
    return _Request(source, target, path, precision, weights, form, keep, budget)


def _versions(
    program: ir.Model, target: targets.Target, opset: int | None, ir_version: int | None
) -> _Versions:
    """The versions that were asked for, else those of the target's toolchain."""
    limits, have = target.toolchain, _opset(program)
    if opset is None:
        opset = limits.opset if limits is not None else have
    if ir_version is None:
        ir_version = limits.ir_version if limits is not None else 0
    if opset != have and not OLDEST <= opset <= NEWEST:
        raise UserError(f"no way to opset {opset}: give one of {OLDEST} to {NEWEST}")
    return _Versions(have, opset, ir_version)


def _passes(
    request: _Request,
    versions: _Versions,
    program: ir.Model,
    feeds: Mapping[str, Array] | None,
) -> tuple[list[passes.Pass], dict[str, Array]]:
    """The passes that lead to the form, and the inputs to calibrate and to verify with."""
    given = {name: native(array, f"input {name!r}") for name, array in (feeds or {}).items()}
    given = given or verify.random_feeds(fitted(program))
    steps: list[passes.Pass] = []
    if versions.opset > versions.before:
        steps.append(RaiseOpset(versions.opset))
    if request.precision == "float16":
        steps.append(passes.ToFloat16(given, request.keep))
    elif request.precision == "int8":
        if not feeds:
            raise UserError("int8 needs inputs like those it will see: give calibration feeds")
        steps.append(passes.Quantise(given, request.keep, request.budget))
    if request.weights != "float32":
        steps.append(passes.RoundWeights(request.weights, request.keep))
    if versions.opset < versions.before or versions.ir_version:
        steps.append(LowerOpset(versions.opset, versions.ir_version))
    return steps, given


def _difference(
    request: _Request, source: SourceModel, feeds: dict[str, Array], before: Mapping[str, Array]
) -> Difference:
    """How far the model is from what it computed before the passes.

    Raises:
        UserError: further than the form allows.
    """
    allowed = source.tolerance  # of the types that the model had before the passes
    if request.weights != "float32":
        allowed = verify.TOLERANCE[request.weights]
    elif request.precision != "float32":
        allowed = verify.tolerance_of(request.precision)
    after = Evaluator(source.program).run(feeds)
    difference = verify.compare(before, after, allowed)
    if request.precision == request.weights == "float32":
        second_oracle.check(source.program, feeds, after, "the lowered model")
        difference = verify.exactly(difference, request.source, source.program, feeds)
    if not difference.passed:
        raise UserError(
            f"in {request.form} {difference.where} is off by {difference.max_rel:.2g} of its "
            f"range, {difference.tolerance:.0e} is allowed: keep nodes in float32, or all; "
            "nothing written"
        )
    return difference


def _opset(program: ir.Model) -> int:
    return int(program.opset_imports.get("", program.opset_imports.get("ai.onnx", 1)))


def _refuse_undone(
    reports: Sequence[PassReport], form: str, versions: _Versions, asked: bool
) -> None:
    """A pass that refuses a whole model leaves it as it was: then there is nothing to write.

    But for an opset older than the target's own, which the target reads, too, unless it was
    ``asked`` for.
    """
    for report in reports:
        refused = [note for note in report.result.notes if note.status == "refused"]
        if report.result.changed or not refused or (report.name == RaiseOpset.name and not asked):
            continue
        is_opset = report.name in (LowerOpset.name, RaiseOpset.name)
        what = f"opset {versions.opset}" if is_opset else form
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        where = f"{refused[0].where}{more}: " if refused[0].where != "graph" else ""
        raise UserError(f"the model cannot be written in {what}: {where}{refused[0].reason}")
