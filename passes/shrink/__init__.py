"""Exact shrink: remove every channel whose absence no output can tell.

Three analyses, each a file of its own: ``constants`` (forward: channels that hold one value, or
one feature map, for every input), ``liveness`` (backward: channels that nobody reads) and
``coupling`` (channels that must go together). ``plan`` draws the conclusion, ``edit`` carries it
out, and every operator is a record of the table in ``operators``. ``fixed_point`` repeats the
whole until nothing more goes; then ``lowering`` writes down the norms whose statistics are still
those of the old width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.note_codes import NoteCode
from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import input_range
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.axes import Mask
from prunedeploy.passes.analysis.settings import Borders, Settings
from prunedeploy.passes.analysis.shape_targets import name_lengths
from prunedeploy.passes.analysis.subgraphs import own_weights, settle_names, share_opsets
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.recurrent import drop_zero_states
from prunedeploy.passes.shrink import even_heads
from prunedeploy.passes.shrink.align import reason
from prunedeploy.passes.shrink.edit import apply
from prunedeploy.passes.shrink.fixed_point import cut_to_fixed_point
from prunedeploy.passes.shrink.lowering import lower
from prunedeploy.passes.shrink.plan import Plan
from prunedeploy.passes.shrink.refusals import refused
from prunedeploy.passes.shrink.sharing import join, join_bodies, separate, separate_bodies

INTO = {
    "bias": "the bias",
    "map": "a map added to the result (zero padding)",
    "channel": "one channel (zero padding)",
}


@dataclass(frozen=True)
class ShrinkChannels:
    """Cut channels that are dead, constant or unread, exactly.

    ``zero_threshold`` raises what counts as zero above the bound in ``analysis/zero.py``; the
    result is then as exact as the weights below the threshold are unimportant.

    The ranges of the inputs are taken from the model, where it states them (``input_range``): what
    follows from them holds for such inputs only.

    ``align`` keeps as many dead channels as make a layer's output channels a multiple of it (see
    ``align.py``); ``borders`` says whether constants that meet zero padding become a map or one
    channel, where both can be (see ``analysis/borders.py``).

    Needs the shapes of all values; an opaque operator keeps all that it touches, and a
    note says what that cost.
    """

    zero_threshold: float = 0.0
    align: int = 1
    borders: Borders = "map"
    name: ClassVar[str] = "shrink-channels"

    @property
    def exact(self) -> bool:
        """Only our own bound on zero is proved not to matter."""
        return self.zero_threshold == 0.0

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place until nothing more can go."""
        changed = bool(model.functions)
        common.InlinePass()(model)
        share_opsets(model)
        infer_shapes(model)
        changed |= drop_zero_states(model) | own_weights(model)
        notes: list[Note] = []
        copies = separate_bodies(model)
        for graph in list(model.graphs()):
            cut, graph_notes = self._shrink(model, graph)
            changed |= cut
            notes += graph_notes
        join_bodies(model, copies)
        return PassResult(changed, tuple(notes))

    def _shrink(self, model: ir.Model, graph: ir.Graph) -> tuple[bool, list[Note]]:
        """One graph, the model's own or that of a body."""
        notes: list[Note] = []
        copies = separate(graph)
        zero, ranges = Zero(self.zero_threshold), input_range.of(model)
        settings = Settings(zero, ranges, self.align, self.borders)

        def prepare() -> None:
            infer_shapes(model)
            name_lengths(graph)

        def carry_out(plan: Plan) -> None:
            notes.extend(_taken(plan))
            plan.weights.forget()
            apply(graph, plan)
            settle_names(model)

        def even_out(plan: Plan) -> bool:
            return even_heads.even_out(graph, plan, self.align)

        plan, changed = cut_to_fixed_point(graph, settings, prepare, carry_out, even_out)
        if changed:
            even_heads.drop_gathers(graph)
            models.drop_unused(graph)
        left = [*_aligned(plan, self.align), *refused(plan, graph)]
        join(copies)
        if lowered := lower(graph):
            notes += lowered
            models.drop_unused(graph)
            infer_shapes(model)
        return changed, [*notes, *left]


def _cut(code: NoteCode, where: str, what: str, stays: Mask) -> Note:
    return Note(code, where, "taken", what, int((~stays).sum()), len(stays))


def _taken(plan: Plan) -> list[Note]:
    notes = []
    for layer in plan.layers:
        stays = plan.keep.of(layer.result, layer.result_axis)
        if stays is not None:
            notes.append(_cut("channels-cut", layer.name, "output channels cut", stays))
    for cell in plan.recurrents:
        stays = plan.keep.of(cell.r, 2)
        if stays is not None:
            notes.append(_cut("hidden-units-cut", cell.name, "hidden units cut", stays))
    for absorption in plan.absorptions:
        code: NoteCode = "constants-absorbed"
        reason = f"constants of input channels went into {INTO[absorption.into]}"
        if absorption.maps is not None:
            code = "maps-absorbed"
            reason = "known maps of input channels went into a map added to the result"
        notes.append(Note(code, absorption.layer.name, "info", reason, absorption.count))
    for node, value, axis, fixed in plan.ranges.proved:
        stays = plan.keep.of(value, axis)
        gone = int((fixed & ~stays).sum()) if stays is not None else 0
        if gone:
            reason = "channels hold a constant, by the range of what comes in"
            where = f"{node.op_type} ({node.name})"
            notes.append(Note("constant-by-range", where, "info", reason, gone))
    asked = plan.facts.zero.threshold > 0.0
    why = "as --zero-threshold asks" if asked else "no float32 result can tell"
    for weight, size in plan.weights.bounds.items():
        reason = f"weights up to {size:.1e} count as zero: {why}"
        notes.append(Note("weights-near-zero", weight, "info", reason))
    return notes


def _aligned(plan: Plan, multiple: int) -> list[Note]:
    """The layers that keep dead channels only to be a multiple wide."""
    kept = np.array(sorted(plan.aligned), np.int64)
    notes = []
    for layer in plan.layers:
        count = int(np.isin(plan.axes.roots(layer.result, layer.result_axis), kept).sum())
        if count and not layer.depthwise:
            notes.append(Note("aligned-channels", layer.name, "info", reason(multiple), count))
    return notes


__all__ = ["ShrinkChannels"]
