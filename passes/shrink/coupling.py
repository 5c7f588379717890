"""Which axes must be cut together: one walk over the graph, each operator by its rule."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.shrink.axes import Axes, Labels, rank, static_size
from prunedeploy.passes.shrink.layers import Layer, layer
from prunedeploy.passes.shrink.rule import wall
from prunedeploy.passes.shrink.rules import rule


def couple(graph: ir.Graph, carrier: int = 0) -> Axes:
    """The labels of all axes of ``graph``, nodes in topological order; see ``Axes.carrier``."""
    axes = Axes(carrier)
    for value in graph.inputs:
        axes.pin(value)
    for node in graph:
        found, row = layer(node), rule(node)
        if found is not None:
            couple_layer(found, axes)
        elif row is not None:
            row.couple(node, axes)
        else:
            wall(node, axes)
        _pin_the_rest(node, axes)
        _pin_captured(node, axes)
    for value in graph.outputs:
        axes.pin(value)
    return axes


def _pin_the_rest(node: ir.Node, axes: Axes) -> None:
    """An axis of a result that its rule said nothing of is not known to be cuttable."""
    for value in node.outputs:
        for axis in range(rank(value) or 0):
            if not axes.has(value, axis):
                axes.pin_axis(value, axis)


def _pin_captured(node: ir.Node, axes: Axes) -> None:
    """Whatever a subgraph reads or computes from the outside is out of reach."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and any(use.node.graph is not node.graph for use in value.uses()):
            axes.pin(value, "a subgraph")


def couple_layer(found: Layer, axes: Axes) -> None:
    """Input channels with the weight's columns, output channels with its rows and bias."""
    channels = axes.of(found.source, found.source_axis)
    if found.depthwise:
        each = (static_size(found.result, found.result_axis) or 0) // len(channels)
        rows = channels.repeat(each)
        axes.assign(found.weight, found.weight_out, rows)
    elif found.groups > 1:
        rows = _couple_grouped(found, axes)
    else:
        axes.assign(found.weight, found.weight_in, channels)
        rows = axes.of(found.weight, found.weight_out)
    axes.assign(found.result, found.result_axis, rows)
    bias = found.bias
    if bias is not None:
        for axis in range(rank(bias) or 0):
            if static_size(bias, axis) == len(rows):
                axes.assign(bias, axis, rows)
    _couple_other_axes(found, axes)


def _couple_grouped(found: Layer, axes: Axes) -> Labels:
    """All groups of a convolution keep the same width: the same positions go in each."""
    channels = axes.of(found.source, found.source_axis).reshape(found.groups, -1)
    rows = axes.of(found.weight, found.weight_out)
    for labels in (channels, rows.reshape(found.groups, -1)):
        for group in labels[1:]:
            axes.tie(labels[0], group)
    axes.assign(found.weight, found.weight_in, channels[0])
    return rows


def _couple_other_axes(found: Layer, axes: Axes) -> None:
    """Batch and token axes pass; those a window sweeps cannot be cut."""
    for axis in range(rank(found.source) or 0):
        if axis == found.source_axis:
            continue
        if found.spatial:
            axes.pin_axis(found.source, axis)
            axes.pin_axis(found.result, axis)
        else:
            axes.assign(found.result, axis, axes.of(found.source, axis))
