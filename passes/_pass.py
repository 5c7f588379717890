"""The protocol of a pass, and the runner that trusts none of them.

After every pass the runner checks the model against the ONNX specification, runs it beside what
it computed before, and runs the pass a second time, which must change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import onnx_ir as ir

from prunedeploy.core.errors import UserError, first_cause
from prunedeploy.core.progress import Counted
from prunedeploy.core.records import Array, Difference, PassReport, PassResult
from prunedeploy.graph import shapes, validity
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


class Pass(Protocol):
    """Model to model, exact: the same outputs for all inputs. Parameters go to the constructor."""

    @property
    def name(self) -> str:
        """The pass's name in reports."""
        ...

    @property
    def exact(self) -> bool:
        """False when the user asked for more than can be proved (a raised zero threshold)."""
        ...

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place; note what was taken, and what was refused and why."""
        ...


class PassError(RuntimeError):
    """A pass broke its promise: a bug of the pass, not of the user's model."""


def run(
    model: ir.Model,
    passes: Iterable[Pass],
    feeds: Mapping[str, Array],
    progress: Callable[[str], None] | None = None,
) -> tuple[PassReport, ...]:
    """Apply ``passes`` to ``model``, in place and in order, each one verified.

    Args:
        model: changed in place.
        passes: in order.
        feeds: inputs on which the outputs before and after every pass are compared.
        progress: called with the name of each pass before it runs.

    Raises:
        PassError: a pass broke the model, changed its outputs, or changed more on a second run.
        UserError: the model holds an operator that nothing here can evaluate.
    """
    outputs = Evaluator(model).run(feeds)
    reports: list[PassReport] = []
    steps = tuple(passes)
    for number, each in enumerate(steps):
        if progress is not None:
            progress(Counted(f"pass {each.name}", number, len(steps)))
        original, usual = model.clone(), verify.tolerances_of(model)  # the clone shares the weights
        begin = time.perf_counter()
        result = each(model)
        seconds = time.perf_counter() - begin
        difference = None
        if result.changed:
            before, outputs = outputs, _check(each, model, feeds)
            converted = verify.tolerance_of(model.metadata_props.get(verify.PRECISION, ""))
            difference = _compare(each, before, outputs, converted or usual)
            difference = verify.exactly(difference, original, model, feeds)
            if each.exact and not difference.passed:
                raise PassError(f"pass {each.name} changed the outputs by {difference.max_rel:.1e}")
        reports.append(PassReport(each.name, result, seconds, difference))
    return tuple(reports)


def _check(each: Pass, model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The model's outputs, once it is known to be valid and the pass to be done with it."""
    if each(model).changed:
        raise PassError(f"pass {each.name} changed the model again on its second run")
    shapes.infer_shapes(model)
    try:
        validity.check_form(model)
        return Evaluator(model).run(feeds)
    except Exception as error:
        raise PassError(f"pass {each.name} broke the model: {first_cause(error)}") from error


def _compare(
    each: Pass, before: Mapping[str, Array], after: Mapping[str, Array], tolerance: verify.Tolerance
) -> Difference:
    """``tolerance`` of a model in less than its outputs' type: its constants are rounded so too."""
    try:
        return verify.compare(before, after, tolerance)
    except UserError as error:  # another shape: not the user's doing
        raise PassError(f"pass {each.name} broke the model: {error}") from error
