"""Which axes must be cut together: one walk over the graph, each operator by its rule."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import INTERFACE, Axes, Labels, rank, static_size
from prunedeploy.passes.analysis.subgraphs import pin_captured, pin_outside
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import opaque
from prunedeploy.passes.operators.table import layer_of, operator


def couple(
    graph: ir.Graph,
    split_choice: int = 0,
    equal_groups: bool = False,
    apart: frozenset[ir.Node] = frozenset(),
) -> Axes:
    """The labels of all axes of ``graph``, nodes in topological order; see ``Axes.split_choice``.

    ``equal_groups`` says that all groups of a convolution are to lose the same channels, ``apart``
    which depthwise convolutions may go on writing a channel that they do not read.
    """
    axes = Axes(split_choice)
    for value in graph.inputs:
        axes.pin(value)
    pin_outside(graph, axes)
    for node in graph:
        axes.asked.clear()
        axes.at = f"{node.op_type} ({node.name})"
        layer = layer_of(node)
        if layer is not None:
            couple_layer(replace(layer, apart=node in apart), axes, equal_groups)
        else:
            (operator(node).couple or opaque)(node, axes)
        _pin_unasked(node, axes)
        _pin_the_rest(node, axes)
        pin_captured(node, axes)
    axes.at = INTERFACE
    for value in graph.outputs:
        axes.pin(value)
    return axes


def _pin_unasked(node: ir.Node, axes: Axes) -> None:
    """An axis of an operand that its rule said nothing of is read: indices, sizes, scales.

    Shape is the exception: it reads the lengths that its rule names and nothing else.
    """
    if node.op_type == "Shape":
        return
    for value in node.inputs:
        for axis in range((rank(value) or 0) if value is not None else 0):
            if value is not None and (value, axis) not in axes.asked:
                axes.pin_axis(value, axis)


def _pin_the_rest(node: ir.Node, axes: Axes) -> None:
    """An axis of a result that its rule said nothing of is not known to be cuttable."""
    for value in node.outputs:
        for axis in range(rank(value) or 0):
            if not axes.has(value, axis):
                axes.pin_axis(value, axis)


def couple_layer(layer: Layer, axes: Axes, equal_groups: bool = False) -> None:
    """Input channels with the weight's columns, output channels with its rows and bias."""
    channels = axes.of(layer.source, layer.source_axis)
    if layer.depthwise:
        rows = channels
        axes.assign(layer.weight, 0, rows)
    elif layer.grouped:
        both = equal_groups or layer.equal_groups
        rows = _couple_equal_groups(layer, axes) if both else _couple_grouped(layer, axes)
    else:
        axes.assign(layer.weight, layer.weight_in, channels)
        rows = axes.of(layer.weight, layer.weight_out)
    axes.assign(layer.result, layer.result_axis, rows)
    bias = layer.bias
    if bias is not None:
        for axis in range(rank(bias) or 0):
            if static_size(bias, axis) == len(rows):
                axes.assign(bias, axis, rows)
    _couple_other_axes(layer, axes)


def _couple_grouped(layer: Layer, axes: Axes) -> Labels:
    """Groups are cut apart, each as if it were a convolution of its own (see shrink/groups.py).

    The layer gets new weights then. Where others share them, their channels go together, so that
    they go on sharing.
    """
    channels = axes.of(layer.source, layer.source_axis)
    rows = axes.of(layer.result, layer.result_axis)
    others = {use.node for use in layer.weight.uses()} - {layer.node}
    for other in filter(None, map(layer_of, others)):
        if other.groups == layer.groups:
            axes.tie(axes.of(other.source, other.source_axis), channels)
            axes.tie(axes.of(other.result, other.result_axis), rows)
    axes.pin(layer.weight)
    return rows


def _couple_equal_groups(layer: Layer, axes: Axes) -> Labels:
    """The same positions go in each group, so that the layer keeps its weight and its groups."""
    channels = axes.of(layer.source, layer.source_axis).reshape(layer.groups, -1)
    rows = axes.of(layer.result, layer.result_axis)
    for labels in (channels, rows.reshape(layer.groups, -1)):
        for group in labels[1:]:
            axes.tie(labels[0], group)
    outward = layer.weight_out == 0  # else transposed: [in channels, out channels of a group, ...]
    axes.assign(layer.weight, layer.weight_in, channels[0] if outward else channels.reshape(-1))
    axes.assign(
        layer.weight, layer.weight_out, rows if outward else rows[: len(rows) // layer.groups]
    )
    return rows


def _couple_other_axes(layer: Layer, axes: Axes) -> None:
    """Batch and token axes pass; those a window sweeps cannot be cut."""
    for axis in range(rank(layer.source) or 0):
        if axis == layer.source_axis:
            continue
        if layer.spatial:
            axes.pin_axis(layer.source, axis)
            axes.pin_axis(layer.result, axis)
        else:
            axes.assign(layer.result, axis, axes.of(layer.source, axis))
