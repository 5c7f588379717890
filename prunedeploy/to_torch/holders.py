"""Where a module can keep the constants that its layers take over from channels that go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import nn
from torch.nn.modules.conv import _ConvNd

from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.names import replace_input
from prunedeploy.passes.operators.layers import Layer, contribution
from prunedeploy.passes.shrink.plan import Absorption
from prunedeploy.reference.opsets import scales_channels
from prunedeploy.to_torch.origins import Origin


@dataclass(frozen=True)
class Holder:
    """A vector with a number an output channel; ``sign`` is -1 for a mean: it is subtracted."""

    name: str
    sign: int = 1


def find(
    graph: ir.Graph, origins: dict[str, Origin], module: nn.Module, new_biases: bool
) -> dict[str, Holder]:
    """The holder of every layer that has one, by the name of its node.

    The layer's own bias; the running mean of the BatchNorm that follows (in training it follows
    by itself); the vector added to a MatMul. A convolution or linear layer with none of these is
    given a bias of zeros, in ``graph`` and in ``origins``, where ``new_biases`` allows it.
    """
    holders: dict[str, Holder] = {}
    for layer in layers_of(graph):
        if layer.node.op_type == "Conv":
            _drop_zeros(layer, origins)
        name = str(layer.node.name)
        if layer.bias is not None:
            if _own(layer.bias, origins):
                holders[name] = Holder(str(layer.bias.name))
        elif (holder := _behind(layer, origins)) is not None:
            holders[name] = holder
        elif new_biases and (bias := _new_bias(graph, layer, origins, module)) is not None:
            holders[name] = Holder(bias)
    return holders


def hold(graph: ir.Graph, absorption: Absorption, holders: dict[str, Holder]) -> None:
    """Add what the constants contribute to the holder's vector, before anything is cut.

    A layer without one was given no constants that a row which stays can tell.
    """
    rows = contribution(absorption.layer, absorption.constants)
    holder = holders.get(str(absorption.layer.node.name))
    if holder is None or not rows.any():
        return
    value = graph.initializers[holder.name]
    assert value.const_value is not None
    array = value.const_value.numpy()
    total = array.astype(np.float64) + holder.sign * rows
    value.const_value = ir.tensor(total.astype(array.dtype), name=holder.name)


def _own(value: ir.Value | None, origins: Collection[str]) -> bool:
    """Whether an initializer is a parameter that nothing else reads."""
    return (
        value is not None
        and value.name in origins
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def _drop_zeros(layer: Layer, origins: Collection[str]) -> None:
    """A bias of zeros that is no parameter: the exporter's word for none."""
    bias = layer.bias
    if bias is None or bias.name in origins or bias.const_value is None:
        return
    if not bias.const_value.numpy().any():
        layer.node.resize_inputs(2)


def _behind(layer: Layer, origins: Collection[str]) -> Holder | None:
    uses = list(layer.result.uses())
    if len(uses) != 1 or layer.result.is_graph_output():
        return None
    node, index = uses[0].node, uses[0].idx
    if node.op_type == "BatchNormalization" and index == 0 and layer.result_axis == 1:
        mean = node.inputs[3]
        if mean is not None and _own(mean, origins) and scales_channels(node):
            return Holder(str(mean.name), -1)
    if node.op_type == "Add" and layer.node.op_type == "MatMul":
        other = node.inputs[1 - index]
        if other is not None and _own(other, origins) and _matches(other, layer):
            return Holder(str(other.name))
    return None


def _matches(vector: ir.Value, layer: Layer) -> bool:
    assert layer.result.shape is not None
    return vector.shape is not None and list(vector.shape) == [
        layer.result.shape[layer.result_axis]
    ]


def _new_bias(
    graph: ir.Graph, layer: Layer, origins: dict[str, Origin], module: nn.Module
) -> str | None:
    """Zeros, under the name that the layer's bias would have; None where it cannot have one."""
    origin = origins.get(str(layer.weight.name))
    if origin is None or len(layer.weight.uses()) != 1 or not origin.key.endswith("weight"):
        return None
    owner = module.get_submodule(origin.key.rpartition(".")[0])
    if not isinstance(owner, nn.Linear | _ConvNd) or owner.bias is not None:
        return None
    dtype, width = layer.weight.dtype, (layer.result.shape or ())[layer.result_axis]
    assert dtype is not None
    assert isinstance(width, int)
    node, index = layer.node, layer.bias_input
    if index is None:
        node, index = _follow(graph, layer), 1
    replace_input(node, index, np.zeros(width, dtype.numpy()), "bias")
    value = node.inputs[index]
    assert value is not None
    name = str(value.name)
    origins[name] = Origin(f"{origin.key.removesuffix('weight')}bias")
    return name


def _follow(graph: ir.Graph, layer: Layer) -> ir.Node:
    """An addition behind a MatMul that all its readers read instead."""
    result = layer.result
    add = ir.node("Add", [result, layer.weight], name=f"{layer.node.name}.bias")
    total = add.outputs[0]
    total.shape, total.type = result.shape, result.type
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    total.name, result.name = result.name, f"{result.name}.before_bias"
    add.replace_input_with(0, result)
    graph.insert_after(layer.node, add)
    return add
