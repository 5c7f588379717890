"""The note on what a narrower number format costs."""

from __future__ import annotations

from prunedeploy.core.records import Difference, Note


def narrow_cost(precision: str, difference: Difference) -> Note:
    """The note that says how far outputs moved when a model went to ``precision``.

    ``difference`` is that of the narrow model's outputs from the outputs before.
    """
    changed = f"{difference.changed_predictions} of {difference.samples} predictions changed"
    reason = f"{precision} costs {difference.max_rel:.1e} of the output's range, {changed}"
    figures = {"max_rel": difference.max_rel, "changed_predictions": difference.changed_predictions}
    where = difference.where or "outputs"
    return Note("narrow-cost", where, "info", reason, difference.samples, figures=figures)
