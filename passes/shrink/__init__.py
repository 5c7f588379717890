"""Exact shrink: remove every channel whose absence no output can tell.

Three analyses, each a file of its own: ``constants`` (forward: channels that hold one value for
every input), ``liveness`` (backward: channels that nobody reads) and ``coupling`` (channels that
must go together). ``plan`` draws the conclusion, ``edit`` carries it out, and the operators are
rows of the table in ``rules`` and ``layers``. The whole repeats until nothing more goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy import model as models
from prunedeploy.passes.shrink.edit import apply
from prunedeploy.passes.shrink.liveness import JOINED
from prunedeploy.passes.shrink.plan import Plan, make_plan
from prunedeploy.passes.shrink.zero import Zero
from prunedeploy.types import Note, PassResult

INTO = {
    "bias": "the bias",
    "map": "a map added to the result (zero padding)",
    "channel": "one channel (zero padding)",
}


@dataclass(frozen=True)
class ShrinkChannels:
    """Cut channels that are dead, constant or unread, exactly.

    ``zero_threshold`` raises what counts as zero above the bound in ``zero.py``; the result is
    then as exact as the weights below the threshold are unimportant.

    Needs the shapes of all values; an operator without a rule keeps all that it touches, and a
    note says what that cost.
    """

    zero_threshold: float = 0.0
    name: ClassVar[str] = "shrink-channels"

    @property
    def exact(self) -> bool:
        """Only our own bound on zero is proved not to matter."""
        return self.zero_threshold == 0.0

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place until nothing more can go."""
        notes: list[Note] = []
        changed, carrier, idle = False, 0, 0
        while True:
            models.infer_shapes(model)
            plan = make_plan(model.graph, Zero(self.zero_threshold), carrier)
            if plan.keep.items():
                changed, idle = True, 0
                notes += _taken(plan)
                apply(model.graph, plan)
                continue
            idle += 1
            if idle >= plan.axes.carriers:  # every choice of carrier has nothing left to cut
                break
            carrier = (carrier + 1) % plan.axes.carriers
        return PassResult(changed, (*notes, *_refused(plan)))


def _taken(plan: Plan) -> list[Note]:
    notes = []
    for layer in plan.layers:
        stays = plan.keep.of(layer.result, layer.result_axis)
        if stays is not None:
            gone = int((~stays).sum())
            notes.append(Note(layer.name, "taken", f"{gone} of {len(stays)} output channels", gone))
    for absorption in plan.absorptions:
        count = int(np.count_nonzero(absorption.constants))
        reason = f"constants of input channels went into {INTO[absorption.into]}"
        notes.append(Note(absorption.layer.name, "info", reason, count))
    asked = plan.facts.zero.threshold > 0.0
    why = "as --zero-threshold asks" if asked else "no float32 result can tell"
    for weight, size in plan.weights.bounds.items():
        notes.append(Note(weight, "info", f"weights up to {size:.1e} count as zero: {why}"))
    return notes


def _refused(plan: Plan) -> list[Note]:
    """Output channels without a weight that stay nevertheless, by what needs them."""
    notes: list[Note] = []
    for layer in plan.layers:
        dead = ~plan.weights.used(layer).any(axis=1)
        if not dead.any():
            continue
        roots = plan.axes.roots(layer.result, layer.result_axis)[dead]
        reasons = [plan.reasons.get(root, JOINED) for root in roots.tolist()]
        for reason in dict.fromkeys(reasons):
            notes.append(Note(layer.name, "refused", reason, reasons.count(reason)))
    return notes


__all__ = ["ShrinkChannels"]
