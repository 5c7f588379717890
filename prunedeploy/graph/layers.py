"""The layers of a model or a checkpoint that multiply with weights, each with its zeros counted.

Three sources, one record: the nodes of an ONNX graph, the modules of a torch network, and where
no network is known the bare tensors of a state_dict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prunedeploy.core.records import Array
from prunedeploy.graph.sparsity import Pattern, measure

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


@dataclass(frozen=True)
class Layer:
    """One weight: its parameter name, the operator that uses it, its shape as stored, its zeros.

    ``macs`` are multiply-accumulates for one sample, None where the model's shapes are unknown.
    A BatchNorm is a layer too, with its scale as a weight of one tap a channel.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    groups: int
    macs: int | None
    pattern: Pattern


def is_normalisation(layer: Layer) -> bool:
    """Whether ``layer`` is the scale of a BatchNorm."""
    return layer.op.startswith("BatchNorm")


def _rows(stored: Array) -> Array:
    """(outputs, inputs, *taps) as (outputs, inputs, taps)."""
    return stored.reshape(*stored.shape[:2], -1)


def _rows_transposed(stored: Array, groups: int) -> Array:
    """(inputs, outputs / groups, *taps) as (outputs, inputs / groups, taps)."""
    inputs, outputs = stored.shape[:2]
    split = stored.reshape(groups, inputs // groups, outputs, -1)
    return split.swapaxes(1, 2).reshape(groups * outputs, inputs // groups, -1)


# -- ONNX -----------------------------------------------------------------------------------------


def node_layer(node: ir.Node) -> Layer | None:
    """The layer that ``node`` is, or None where it does not multiply with a constant."""
    from prunedeploy.graph import work

    if (weight := _weight_of(node)) is None:
        return None
    name, stored = weight
    groups = node.attributes.get_int("group", 1)
    match node.op_type:
        case "Conv":
            rows = _rows(stored)
        case "ConvTranspose":
            rows = _rows_transposed(stored, groups)
        case "BatchNormalization":
            rows, groups = stored.reshape(-1, 1, 1), stored.size
        case "Gemm" if node.attributes.get_int("transB", 0):
            rows = _rows(stored)
        case _:  # (..., inputs, outputs): every leading index is a group of its own
            groups = math.prod(stored.shape[:-2])
            rows = stored.swapaxes(-1, -2).reshape(-1, stored.shape[-2], 1)
    macs = work.macs(node) or None
    return Layer(name, node.op_type, stored.shape, groups, macs, measure(rows, groups))


def _weight_of(node: ir.Node) -> tuple[str, Array] | None:
    """The constant that ``node`` multiplies with, as its operator reads it."""
    min_axes = {"Conv": 3, "ConvTranspose": 3, "Gemm": 2, "MatMul": 2, "BatchNormalization": 1}
    if node.op_type not in min_axes or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    weight = _constant(node.inputs[1])
    if weight is None or weight[1].ndim < min_axes[node.op_type]:
        return None
    return weight


def _constant(value: ir.Value) -> tuple[str, Array] | None:
    """Name and content of a constant, through the Transpose and Identity that exporters leave."""
    import onnx_ir as ir

    producer = value.producer()
    if producer is not None and producer.op_type in ("Transpose", "Identity"):
        source = producer.inputs[0]
        inner = None if source is None else _constant(source)
        if inner is None or producer.op_type == "Identity":
            return inner
        return inner[0], inner[1].transpose(producer.attributes.get_ints("perm") or None)
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    return str(value.name), tensor.numpy()


# -- torch ----------------------------------------------------------------------------------------


def state_layers(tensors: Mapping[str, torch.Tensor]) -> Iterator[Layer]:
    """Every tensor that could be a weight. Groups are not known, so they are taken as one."""
    kinds = {2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        weight, shape = tensor.detach().numpy(), tuple(tensor.shape)
        if name.removesuffix("weight") + "running_var" in tensors:
            pattern = measure(weight.reshape(-1, 1, 1), weight.size)
            yield Layer(name, "BatchNorm", shape, weight.size, None, pattern)
        elif tensor.ndim in kinds:
            yield Layer(name, kinds[tensor.ndim], shape, 1, None, measure(_rows(weight)))


def module_layers(module: torch.nn.Module, macs: Mapping[str, int]) -> Iterator[Layer]:
    """The parameters of ``module`` that are weights; ``macs`` by name of the layer they are in."""
    for owner_name, owner in module.named_modules():
        op = getattr(owner, "original_name", type(owner).__name__)  # that of a TorchScript module
        if op.startswith("Embedding"):
            continue  # rows are looked up, nothing is multiplied
        for name, tensor in owner.named_parameters(owner_name, recurse=False):
            weight, shape = tensor.detach().numpy(), tuple(tensor.shape)
            groups = int(getattr(owner, "groups", 1))
            if name.endswith("weight") and hasattr(owner, "running_var"):
                rows, groups = weight.reshape(-1, 1, 1), weight.size
            elif tensor.ndim < 2:
                continue
            elif getattr(owner, "transposed", False):
                rows = _rows_transposed(weight, groups)
            else:
                rows = _rows(weight)
            yield Layer(name, op, shape, groups, macs.get(owner_name), measure(rows, groups))


def module_macs(module: torch.nn.Module, shape: tuple[int, ...] | None) -> dict[str, int]:
    """Multiply-accumulates of one sample by name of layer, from one run; none without a shape."""
    import torch

    macs: dict[str, int] = {}

    def count(name: str, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        # every output element (input, when transposed) meets one filter
        swept = inputs[0] if getattr(layer, "transposed", False) else output
        macs[name] = macs.get(name, 0) + swept.numel() // len(swept) * layer.weight[0].numel()

    if shape is None or isinstance(module, torch.jit.ScriptModule):
        return macs
    products = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    hooks = [
        layer.register_forward_hook(partial(count, name))
        for name, layer in module.named_modules()
        if isinstance(layer, products)
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(shape, dtype=next(module.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return macs
