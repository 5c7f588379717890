"""Layers of regrouped weights as several smaller ones, in standard ONNX.

Regrouping leaves sets of rows that are dense on a set of columns and zero elsewhere, which stock
runtimes multiply all the same. Such a layer becomes one smaller layer for each block, on the
inputs that the block reads, and a Concat (``blocks/rewrite.py``). That saves multiplications and
moves more bytes, so it is done layer by layer only where the target's figures say that it pays:

    computed = max(macs / macs a second, bytes of weights / bytes a second)
    moved    = (numbers gathered and concatenated, read and written) * bytes / bytes a second
    taken where (computed before - computed after) > MARGIN * (moved + NODE a node)

The sparse runtime runs blocks as they are and needs none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes.analysis.axes import positions, static_size
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.blocks.parts import Part, by_channels, parts_of
from prunedeploy.passes.blocks.rewrite import REPACKED, padded_size, rewrite, window
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.table import layer_of
from prunedeploy.reference.opsets import opset
from prunedeploy.targets import Target, by_name

NODE = 5e-6  # seconds that one more node takes whatever its size
MARGIN = 1.5  # what is saved, over what is spent: figures of machines are rough
BY_INPUTS = 11  # opset from which Pad and Slice take inputs
OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Form:
    """A candidate for repacking a layer, in seconds of one batch."""

    name: str
    parts: list[Part]
    computed: float
    moved: float


@dataclass(frozen=True)
class RepackBlocks:
    """Repack regrouped layers where ``target``'s cost model says that it is faster.

    Taken: convolutions, Gemm and MatMul of one group whose weights are their own. Layers without
    blocks pass without a note. Targets without figures: never.
    """

    target: str = "host"
    name: ClassVar[str] = "repack-blocks"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        shapes.infer_shapes(model)
        target = by_name(self.target)
        notes = []
        for node in [layer.node for layer in layers_of(model.graph)]:
            layer = layer_of(node)  # as it is by now: one in front may have been rewritten
            if layer is not None and _is_open(layer):
                parts = parts_of(layer.rows())
                if _has_blocks(layer, parts):
                    notes.append(_decide(model.graph, layer, parts, target))
        models.drop_unused(model.graph)
        return PassResult(any(note.status == "taken" for note in notes), tuple(notes))


def _is_open(layer: Layer) -> bool:
    """Whether the layer's weights are its own, and not repacked before."""
    shared = len(layer.weight.uses()) > 1 or layer.weight.is_graph_output()
    bias = layer.bias
    return (
        layer.node.op_type in OPERATORS
        and layer.groups == 1
        and not shared
        and layer.weight.const_value is not None
        and (bias is None or bias.const_value is not None)
        and REPACKED not in layer.node.metadata_props
    )


def _has_blocks(layer: Layer, parts: list[Part]) -> bool:
    """Whether some part reads less than all."""
    width = layer.rows()[0].size
    return any(part.columns.size < width for part in parts) and (
        len(parts) > 1 or parts[0].columns.size < width
    )


def _decide(graph: ir.Graph, layer: Layer, parts: list[Part], target: Target) -> Note:
    outputs = positions(layer.result, layer.result_axis)
    inputs = positions(layer.source, layer.source_axis)
    if outputs is None or inputs is None:
        return Note("open-shape", layer.name, "refused", "blocks: the size of the map is open", 0)
    if not target.macs_per_second or not target.bytes_per_second:
        reason = f"blocks: no cost figures for {target.name}"
        return Note("no-cost-figures", layer.name, "refused", reason, 0)
    dense = _computed(layer.rows().size, outputs, target)
    forms = [_channels(layer, parts, outputs, inputs, target)]
    if _can_unroll(layer):
        forms.append(_columns(layer, parts, outputs, inputs, target))
    best = min(forms, key=lambda form: form.computed + form.moved)
    saved = dense - best.computed
    figures = f"{saved * 1e6:.0f} us less to compute, {best.moved * 1e6:.0f} us to move"
    blocks = f"{len(parts)} blocks"
    if saved <= MARGIN * best.moved:
        reason = f"{blocks}, slower if repacked for {target.name}: {figures}"
        return Note("slower-on-target", layer.name, "refused", reason, 0)
    silent = rewrite(graph, layer, best.parts, best.name, target.multiple)
    how = "order folded into the layers behind" if silent else "a Gather restores the order"
    reason = f"{blocks} repacked by {best.name}, predicted for {target.name}: {figures}; {how}"
    return Note("blocks-repacked", layer.name, "taken", reason, len(best.parts))


def _computed(weights: int, positions: int, target: Target) -> float:
    """Seconds of a layer with so many weights, each used once a position."""
    macs = weights * positions / target.macs_per_second
    return max(macs, 4 * weights / target.bytes_per_second)


def _moved(numbers: int, nodes: int, target: Target) -> float:
    """Seconds to read and write so many numbers, in so many more nodes."""
    return 8 * numbers / target.bytes_per_second + NODE * nodes


def _channels(layer: Layer, parts: list[Part], positions: int, inputs: int, target: Target) -> Form:
    rows = layer.rows()
    outputs, width, taps = rows.shape
    merged = by_channels(parts, taps)
    computed, numbers, nodes = 0.0, 0, 2 * (len(merged) > 1)
    for part in merged:
        cut = window(layer, part)
        read = min(padded_size(layer, part.channels(taps).size, target.multiple), width)
        left = taps if cut is None else _length(cut[0]) * _length(cut[1])
        computed += _computed(part.rows.size * read * left, positions, target)
        nodes += 1
        if read < width:
            numbers += read * inputs
            nodes += 1
    numbers += 2 * outputs * positions * (len(merged) > 1)
    return Form("channels", merged, computed, _moved(numbers, nodes - 1, target))


def _columns(layer: Layer, parts: list[Part], positions: int, inputs: int, target: Target) -> Form:
    outputs, width, taps = layer.rows().shape
    read = [padded_size(layer, part.columns.size, target.multiple) for part in parts]
    computed = sum(
        _computed(part.rows.size * columns, positions, target)
        for part, columns in zip(parts, read, strict=True)
    )
    gathered = sum(read)
    numbers = width * inputs + (2 * width * taps + gathered + 2 * outputs) * positions
    nodes = taps + 2 * len(parts) + 3
    return Form("columns", parts, computed, _moved(numbers, nodes, target))


def _can_unroll(layer: Layer) -> bool:
    """Whether the window can be written with Slices: two axes of known size and known pads.

    Before opset 11 Pad, and before 10 Slice, take attributes instead of inputs.
    """
    shape = layer.weight.const_value.shape if layer.weight.const_value is not None else ()
    sizes = [static_size(v, a) for v in (layer.source, layer.result) for a in (2, 3)]
    return (
        layer.node.op_type == "Conv"
        and opset(layer.node) >= BY_INPUTS
        and len(shape) == 4
        and layer.rows().shape[2] > 1
        and None not in sizes
        and layer.node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _length(part: slice) -> int:
    return int(part.stop) - int(part.start)
