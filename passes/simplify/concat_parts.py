"""Parts of a Concat that need not be computed: dropped with their channels, or padded.

A part no output can tell from constants is dropped, and its labels are cut wherever else they are;
readers take its constants over (see ``shrink/plan.py``). Part of that is only possible together:
no tensor that is still computed may lose all its channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.records import Note
from prunedeploy.passes.analysis.axes import Labels, rank
from prunedeploy.passes.analysis.facts import Constants
from prunedeploy.passes.names import graph_of, put_before, replace_input
from prunedeploy.passes.shrink.edit import apply
from prunedeploy.passes.shrink.lowering import lower
from prunedeploy.passes.shrink.plan import Analysis, conclude
from prunedeploy.reference.opsets import opset

PAD_INPUTS = 11  # opset from which Pad takes its pads as an input


@dataclass(frozen=True)
class Part:
    """An operand of a Concat, with the representatives of its labels along the axis."""

    node: ir.Node
    index: int
    value: ir.Value
    roots: Labels


def concat_axis(node: ir.Node) -> int | None:
    """The axis of a Concat counted from the front; None for other nodes and unknown ranks."""
    width = rank(node.outputs[0])
    if node.op_type != "Concat" or node.domain not in ("", "ai.onnx") or width is None:
        return None
    return node.attributes.get_int("axis", 0) % width


def drop_parts(model: ir.Model, analysis: Analysis) -> list[Note]:
    """Drop what is not live, as far as nothing that stays loses its last channel."""
    parts = _together(model.graph, _unneeded(model.graph, analysis), analysis)
    if not parts:
        return []
    stays = np.ones(len(analysis.axes), bool)
    for part in parts:
        stays[part.roots] = False
    plan = conclude(analysis, stays)
    notes = []
    for node in dict.fromkeys(part.node for part in parts):
        gone = {part.index for part in parts if part.node is node}
        _set_inputs(node, [v for i, v in enumerate(node.inputs) if i not in gone])
    for part in parts:
        reason = "a part of a Concat that no output can tell from constants"
        notes.append(
            Note("concat-part-cut", str(part.value.name), "taken", reason, len(part.roots))
        )
    common.RemoveUnusedNodesPass()(model)
    left = tuple(layer for layer in plan.layers if layer.node.graph is not None)
    taken = tuple(a for a in plan.absorptions if a.layer.node.graph is not None)
    apply(model.graph, replace(plan, layers=left, absorptions=taken))
    return [*notes, *lower(model.graph)]


def _unneeded(graph: ir.Graph, analysis: Analysis) -> list[Part]:
    """Parts without a live label in a Concat that has one."""
    live, parts = analysis.kept.live, []
    for node in graph:
        axis = concat_axis(node)
        if axis is None or not live[analysis.axes.roots(node.outputs[0], axis)].any():
            continue
        for index, value in enumerate(node.inputs):
            roots = analysis.axes.roots(value, axis) if value is not None else np.zeros(0, np.int64)
            if value is not None and len(roots) and not live[roots].any():
                parts.append(Part(node, index, value, roots))
    return parts


def _together(graph: ir.Graph, parts: list[Part], analysis: Analysis) -> list[Part]:
    """The parts that can go: what is computed without them keeps a channel in every axis."""
    while parts:
        cut = np.zeros(len(analysis.axes), bool)
        for part in parts:
            cut[part.roots] = True
        values = _computed(graph, parts)
        needed = [
            roots
            for value, _, roots in analysis.axes.items()
            if value in values and len(roots) and cut[roots].all()
        ]
        needed += [roots for roots in _groups(analysis) if cut[roots].all()]
        if not needed:
            return parts
        blocked = np.unique(np.concatenate(needed))
        parts = [part for part in parts if not np.isin(part.roots, blocked).any()]
    return []


def _groups(analysis: Analysis) -> list[Labels]:
    """Return the labels that each group of a grouped convolution reads: one must stay."""
    return [
        roots
        for layer in analysis.layers
        if layer.grouped
        for roots in analysis.axes.roots(layer.source, layer.source_axis).reshape(layer.groups, -1)
    ]


def _computed(graph: ir.Graph, parts: list[Part]) -> set[ir.Value]:
    """Every value that an output depends on when the parts are dropped."""
    dropped = {(part.node, part.index) for part in parts}
    values: set[ir.Value] = set(graph.outputs)
    for node in reversed(graph):
        inside = any(use.node.graph is not graph for v in node.outputs for use in v.uses())
        if inside or values & set(node.outputs):
            values |= set(node.outputs)
            values |= {
                value
                for index, value in enumerate(node.inputs)
                if value is not None and (node, index) not in dropped
            }
    return values


def _set_inputs(node: ir.Node, values: list[ir.Value | None]) -> None:
    for index, value in enumerate(values):
        node.replace_input_with(index, value)
    node.resize_inputs(len(values))


def pad_part(node: ir.Node, index: int, axis: int, known: Constants) -> str | None:
    """Replace a part that holds one number by a Pad of the part beside it; why not, or None."""
    if opset(graph_of(node)) < PAD_INPUTS:
        return "Pad takes no computed number before opset 11"
    if (known != known[0]).any():
        return "its channels hold different numbers, and the concatenation is needed whole"
    neighbour = index - 1 if index else 1
    source = node.inputs[neighbour] if neighbour < len(node.inputs) else None
    if source is None or source.producer() is None or source.dtype is None:
        return "nothing computed beside it to pad"
    width = rank(node.outputs[0]) or 0
    pads = np.zeros(2 * width, np.int64)
    pads[axis + (width if index else 0)] = len(known)
    pad = ir.node("Pad", [source, None, None])
    padded = put_before(node, pad, f"{node.name}.constant")
    padded.type = source.type
    replace_input(pad, 1, pads, "pads")
    replace_input(pad, 2, np.array(known[0], source.dtype.numpy()), "number")
    rest = list(node.inputs)
    rest[neighbour] = padded
    del rest[index]
    _set_inputs(node, rest)
    return None
