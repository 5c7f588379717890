"""Carrying out a plan: constants into biases, initializers sliced, nodes adapted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.graph.model import drop_unused, release
from prunedeploy.passes.analysis.borders import Border, border, map_border
from prunedeploy.passes.names import naming, put_behind, replace_input
from prunedeploy.passes.operators.layers import Layer, bias_rows, contribution
from prunedeploy.passes.operators.operator import Keep
from prunedeploy.passes.operators.table import operator
from prunedeploy.passes.shrink.groups import regroup, regroupings
from prunedeploy.passes.shrink.plan import Absorption, Plan
from prunedeploy.passes.shrink.tables import feed


def apply(graph: ir.Graph, plan: Plan) -> None:
    """Change ``graph`` in place."""
    with naming(graph):
        _apply(graph, plan)


def _apply(graph: ir.Graph, plan: Plan) -> None:
    biases = [(a.layer, _new_bias(a, plan.keep)) for a in plan.absorptions if a.into == "bias"]
    maps = [(a.layer, _new_map(a, plan.keep)) for a in plan.absorptions if a.into == "map"]
    for absorption in plan.absorptions:
        if absorption.into == "channel":
            _merge(absorption)
    cut = {value for value, _, _ in plan.keep.items()}
    regrouped = regroupings(plan.layers, plan.keep)
    for node in graph:
        edit = operator(node).edit
        if edit is not None and cut & {*node.inputs, *node.outputs}:
            edit(node, plan.keep)
    for layer in plan.layers:
        if layer.depthwise:
            _narrow_groups(layer, plan.keep)
    for value in list(graph.initializers.values()):
        _slice_initializer(value, plan.keep)
    update_shapes(plan.keep)
    for layer, bias in biases:
        set_bias(layer, bias)
    for layer, added in maps:
        _add_map(layer, added)
    regroup(graph, regrouped)
    drop_unused(graph)


def _new_bias(absorption: Absorption, keep: Keep) -> Array:
    """The bias of the rows that stay, with what the constants that go added to them."""
    layer = absorption.layer
    assert layer.weight.dtype is not None
    rows = bias_rows(layer) + contribution(layer, absorption.constants)
    stays = keep.of(layer.result, layer.result_axis)
    kept = rows if stays is None else rows[stays]
    return kept.astype(layer.weight.dtype.numpy())


def _new_map(absorption: Absorption, keep: Keep) -> Border:
    """Return what constants and known maps add at each position to the rows that stay."""
    layer, maps = absorption.layer, absorption.maps
    added = border(layer, absorption.constants) if maps is None else map_border(layer, maps)
    stays = keep.of(layer.result, layer.result_axis)
    return added if stays is None else replace(added, table=added.table[:, stays])


def _merge(absorption: Absorption) -> None:
    """W[:, k] += sum_j W[:, j] c_j / c_k: channel k now carries all the constants."""
    layer = absorption.layer
    tensor = layer.weight.const_value
    assert tensor is not None
    array = np.array(tensor.numpy())
    width = len(absorption.constants) // layer.groups
    first = absorption.group * width
    view, bias_channel = layer.group_of(array, absorption.group), absorption.bias_channel - first
    columns = np.flatnonzero(absorption.constants[first : first + width])
    factors = absorption.constants[first + columns] / absorption.bias_channel_constant
    added = np.einsum("ok...,k->o...", view[:, columns].astype(np.float64), factors)
    view[:, bias_channel] = view[:, bias_channel].astype(np.float64) + added
    layer.weight.const_value = ir.tensor(array, name=layer.weight.name)


def _narrow_groups(layer: Layer, keep: Keep) -> None:
    stays = keep.of(layer.source, layer.source_axis)
    if stays is not None:
        layer.node.attributes["group"] = ir.AttrInt64("group", int(stays.sum()))


def _slice_initializer(value: ir.Value, keep: Keep) -> None:
    tensor = value.const_value
    if tensor is None:
        return
    array: Array | None = None
    for axis in range(len(tensor.shape)):
        stays = keep.of(value, axis)
        if stays is not None:
            array = np.compress(stays, tensor.numpy() if array is None else array, axis=axis)
    release(tensor)
    if array is not None:
        value.const_value = ir.tensor(array, dtype=tensor.dtype, name=value.name)
        value.shape = ir.Shape(array.shape)


def set_bias(layer: Layer, bias: Array) -> None:
    """A bias of the layer's own; a MatMul, which has none, is followed by an addition."""
    if layer.bias_input is None:
        node, index = put_behind(layer.node, "Add", "bias", "before_bias"), 1
    else:
        node, index = layer.node, layer.bias_input
    replace_input(node, index, bias, f"{layer.weight.name}.bias")


def _add_map(layer: Layer, added: Border) -> None:
    """The table, its rows and columns repeated, added to the layer's result."""
    dtype = layer.weight.dtype
    assert dtype is not None
    add = put_behind(layer.node, "Add", "borders", "before_borders")
    table = added.table.astype(dtype.numpy())
    feed(add, 1, table, added.repeats, f"{layer.weight.name}.borders")


def update_shapes(keep: Keep) -> None:
    """Shorter axes; whatever was not cut is as long as before, so nothing need be inferred."""
    for value, axis, stays in keep.items():
        if value.const_value is None and value.shape is not None:
            dims = list(value.shape)
            dims[axis] = int(stays.sum())
            value.shape = ir.Shape(dims)
