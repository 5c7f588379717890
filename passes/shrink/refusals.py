"""Notes of refusal: channels that are dead or unread, and stay because of others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, Reason
from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.heads import bundles
from prunedeploy.passes.analysis.liveness import JOINED
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.shrink.plan import Plan

UNREAD = "no layer reads them, and yet they stay: "
READ = Reason(
    "joined-with-live",
    "joined, in a sum, a grouped convolution or a split in parts, with channels that are read",
)
UNEQUAL = Reason(
    "unequal-heads", "other heads have fewer channels that could go: all heads are of one size"
)

# Operators that may add a border of another number: padding that is counted or appended.
PADDING = ("AveragePool", "Pad")


def refused(plan: Plan, graph: ir.Graph) -> list[Note]:
    """Channels that nothing feeds or that nobody reads, and that stay nevertheless."""
    borders = _split(plan, graph) | _shared(plan, graph) | _borders(plan, graph)
    notes: list[Note] = []
    for layer in plan.layers:
        dead = ~plan.weights.used(layer).any(axis=1)
        roots = plan.axes.roots(layer.result, layer.result_axis)[dead]
        notes += _notes(layer.name, _reasons(plan, roots.tolist(), borders))
    for cell in plan.recurrents:
        known = plan.facts.of(cell.results[0], (rank(cell.results[0]) or 0) - 1)
        if known is not None:
            roots = plan.axes.roots(cell.r, 2)[known == 0]
            notes += _notes(cell.name, _reasons(plan, roots.tolist(), borders))
    return notes + _unread(plan, graph)


def _reasons(plan: Plan, roots: list[int], borders: dict[int, Reason]) -> list[Reason]:
    """Why each label stays; alignment has a note of its own."""
    reasons = [plan.kept.reasons.get(root, JOINED) for root in roots if root not in plan.aligned]
    left = [root for root in roots if root not in plan.aligned]
    return [
        borders.get(root, why) if why == JOINED else why
        for root, why in zip(left, reasons, strict=True)
    ]


def _notes(where: str, reasons: list[Reason]) -> Iterable[Note]:
    for why in dict.fromkeys(reasons):
        yield Note(why.code, where, "refused", why.text, reasons.count(why))


def _borders(plan: Plan, graph: ir.Graph) -> dict[int, Reason]:
    """Labels whose constant ends where it meets padding: by label, the reason."""
    reasons: dict[int, Reason] = {}
    for node in graph:
        source = node.inputs[0] if node.op_type in PADDING else None
        if source is None or rank(source) is None or (rank(source) or 0) < 2:
            continue
        before, after = _constant(plan, source, 1), _constant(plan, node.outputs[0], 1)
        kept = plan.axes.roots(node.outputs[0], 1)
        lost = set(plan.axes.roots(source, 1)[before].tolist()) - set(kept[after].tolist())
        text = f"constants meet the padding of {node.op_type} ({node.name}): the border differs"
        why = Reason("padding-border", text)
        reasons.update(dict.fromkeys(lost & set(kept.tolist()), why))
    return reasons


def _shared(plan: Plan, graph: ir.Graph) -> dict[int, Reason]:
    """Labels that weights which several nodes read tie together: by label, the reason."""
    reasons: dict[int, Reason] = {}
    for value in graph.initializers.values():
        if len(value.uses()) < 2:
            continue
        text = f"several nodes share {value.name}, and not all of them can do without"
        why = Reason("shared-weights", text)
        for axis in range(rank(value) or 0):
            reasons |= dict.fromkeys(plan.axes.roots(value, axis).tolist(), why)
    return reasons


def _split(plan: Plan, graph: ir.Graph) -> dict[int, Reason]:
    """Labels that one size of all heads ties together: by label, the reason."""
    return {
        root: UNEQUAL
        for bundle in bundles(graph)
        for entry in bundle.entries.values()
        for root in plan.axes.roots(entry.value, entry.axis).tolist()
    }


def _constant(plan: Plan, value: ir.Value, axis: int) -> Mask:
    """True for the indices that are known to hold a constant."""
    known, size = plan.facts.of(value, axis), len(plan.axes.roots(value, axis))
    return np.zeros(size, bool) if known is None or len(known) != size else ~np.isnan(known)


def _unread(plan: Plan, graph: ir.Graph) -> list[Note]:
    """Output channels with weights that no layer behind has a column for."""
    unread = _without_columns(plan, graph)
    notes: list[Note] = []
    for layer in plan.layers:
        mask = unread.get((layer.result, layer.result_axis))
        if mask is None or layer.depthwise:
            continue
        mask = mask & plan.weights.used(layer).any(axis=1)
        roots = plan.axes.roots(layer.result, layer.result_axis)[mask].tolist()
        reasons = [why if why != JOINED else READ for why in _reasons(plan, roots, {})]
        why_unread = [Reason("unread-but-kept", UNREAD + why.text) for why in reasons]
        notes += _notes(layer.name, why_unread)
    return notes


def _without_columns(plan: Plan, graph: ir.Graph) -> dict[tuple[ir.Value, int], Mask]:
    """For the axes of all values, the indices that no layer behind reads.

    An operator hands an axis on where its result has one with the same labels; where it has none,
    whatever it does counts as reading.
    """
    layers = {layer.node: layer for layer in plan.layers}
    unread: dict[tuple[ir.Value, int], Mask] = {}
    for node in reversed(list(graph)):
        for value in node.outputs:
            for axis in range(rank(value) or 0):
                if value.is_graph_output() or not value.uses() or not static_size(value, axis):
                    continue
                masks = [_by(use.node, value, axis, plan, layers, unread) for use in value.uses()]
                unread[value, axis] = np.all(masks, axis=0)
    return unread


def _by(
    node: ir.Node,
    value: ir.Value,
    axis: int,
    plan: Plan,
    layers: dict[ir.Node, Layer],
    unread: dict[tuple[ir.Value, int], Mask],
) -> Mask:
    """The indices that one reader, and all behind it, have no use for."""
    roots, layer = plan.axes.roots(value, axis), layers.get(node)
    if layer is not None and not layer.depthwise:
        if value is not layer.source or axis != layer.source_axis:
            return np.zeros(len(roots), bool)
        every = np.ones(plan.weights.used(layer).shape[0], bool)
        return ~plan.weights.needed(layer, every)
    on = [
        unread.get((result, at), np.zeros(len(roots), bool))
        for result in node.outputs
        for at in range(rank(result) or 0)
        if np.array_equal(plan.axes.roots(result, at), roots)
    ]
    return np.asarray(np.all(on, axis=0)) if on else np.zeros(len(roots), bool)
