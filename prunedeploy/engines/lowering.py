"""Writes a model in the opset, IR version and precision that a target's own software takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from prunedeploy import passes, targets
from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Difference, PassReport
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.passes.opset import OLDEST, LowerOpset
from prunedeploy.passes.opset.widened import NEWEST
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.randomness import refuse_random
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
        opset: instead of the target's.
        ir_version: instead of the target's; 0 for the oldest that goes with the opset.
        feeds: calibration inputs; random ones where there are none, which int8 does not take.
        keep: names of nodes that stay in float32, or whose weights do.
        budget: for int8: the most that the outputs may be off, relative to their range.

    Raises:
        UserError: the target cannot compute so, or a node has no such form; it is named.
    """
    source, machine = Path(model), targets.by_name(target)
    if weights != "float32" and precision != "float32":
        raise UserError(
            f"a model in {precision} has its weights in {precision}: give one of the two"
        )
    form = precision if weights == "float32" else f"{weights} weights"
    output_path = Path(output or f"{source.stem}.{machine.name}.{form.replace(' ', '-')}.onnx")
    if output_path.suffix != ".onnx" or output_path.resolve() == source.resolve():
        raise UserError(f"cannot write {output_path}: name another file that ends in .onnx")
    limits = machine.toolchain
    if limits is not None and precision not in limits.precisions:
        known = ", ".join(limits.precisions)
        raise UserError(
            f"{machine.name} does not compute in {precision}: {limits.name} has {known}"
        )
    prepared = preparation.from_file(source)
    program = prepared.model
    have = program.opset_imports.get("", program.opset_imports.get("ai.onnx", 1))
    newest = opset if opset is not None else limits.opset if limits is not None else have
    lowest_ir = ir_version if ir_version is not None else limits.ir_version if limits else 0
    if newest != have and not OLDEST <= newest <= NEWEST:
        raise UserError(f"no way to opset {newest}: give one of {OLDEST} to {NEWEST}")
    given = {name: native(array, f"input {name!r}") for name, array in (feeds or {}).items()}
    given = given or verify.random_feeds(models.specs(program)[0])
    steps: list[passes.Pass] = []
    if precision == "float16":
        steps.append(passes.ToFloat16(given, frozenset(keep)))
    elif precision == "int8":
        if not feeds:
            raise UserError("int8 needs inputs like those it will see: give calibration feeds")
        steps.append(passes.Quantise(given, frozenset(keep), budget))
    if weights != "float32":
        steps.append(passes.RoundWeights(weights, frozenset(keep)))
    if newest < have or lowest_ir:
        steps.append(LowerOpset(min(newest, have), lowest_ir))
    refuse_random(program, given)
    before, usual = Evaluator(program).run(given), verify.tolerances_of(program)
    reports = passes.run(program, steps, given)
    _refuse_undone(reports, form, newest)
    after = Evaluator(program).run(given)
    if weights != "float32":
        usual = verify.TOLERANCE[weights]
    elif precision != "float32":
        usual = verify.tolerance_of(precision)
    difference = verify.compare(before, after, usual)
    if precision == weights == "float32":
        difference = verify.exactly(difference, source, program, given)
    if not difference.passed:
        raise UserError(
            f"in {form} {difference.where} is off by {difference.max_rel:.2g} of its range, "
            f"{difference.tolerance:.0e} is allowed: keep nodes in float32, or all; nothing written"
        )
    with files.atomic_group(output_path) as temporary:
        models.save(program, temporary)
        digest = models.sha256(temporary)
    return LowerResult(
        source=source,
        model=output_path,
        model_sha256=digest,
        opset=_opset(program),
        ir_version=int(program.ir_version or 0),
        precision=precision,
        weights=weights,
        difference=difference,
        passes=reports,
        found=prepared.notes,
    )


def _opset(program: ir.Model) -> int:
    return int(program.opset_imports.get("", program.opset_imports.get("ai.onnx", 1)))


def _refuse_undone(reports: Sequence[PassReport], form: str, opset: int) -> None:
    """A pass that refuses a whole model leaves it as it was: then there is nothing to write."""
    for report in reports:
        refused = [note for note in report.result.notes if note.status == "refused"]
        if report.result.changed or not refused:
            continue
        what = f"opset {opset}" if report.name == LowerOpset.name else form
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        where = f"{refused[0].where}{more}: " if refused[0].where != "graph" else ""
        raise UserError(f"the model cannot be written in {what}: {where}{refused[0].reason}")
