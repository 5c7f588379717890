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

# Operators on integers: what they compute, the inputs of the weight and of its zero point.
INTEGER = {
    "QLinearConv": ("Conv", 3, 5),
    "QLinearMatMul": ("MatMul", 3, 5),
    "ConvInteger": ("Conv", 1, 3),
    "MatMulInteger": ("MatMul", 1, 3),
}
# Operators that put stored matrices together to the weight of an LSTM, GRU or RNN.
MOVES = ("Concat", "Slice", "Split", "Squeeze", "Unsqueeze")
MIN_AXES = {"Conv": 3, "ConvTranspose": 3, "Gemm": 2, "MatMul": 2, "BatchNormalization": 1}


def node_layer(node: ir.Node) -> Layer | None:
    """The layer that ``node`` is, or None where it does not multiply with a constant."""
    from prunedeploy.graph import work

    if (weight := _weight_of(node)) is None:
        return None
    name, stored = weight
    groups = node.attributes.get_int("group", 1)
    match INTEGER.get(node.op_type, (node.op_type,))[0]:
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


def node_layers(node: ir.Node) -> Iterator[Layer]:
    """The layers that ``node`` is: one, or of an LSTM, GRU or RNN one a weight of its gates.

    Those weights are listed as they are stored, also where the node reads them rearranged.
    """
    from prunedeploy.graph import work

    if node.op_type not in work.RECURRENT:
        if (layer := node_layer(node)) is not None:
            yield layer
        return
    stored = [x for value in node.inputs[1:3] if value is not None for x in _gathered(value)]
    total, macs = sum(weight.size for _, weight in stored), work.macs(node)
    for name, weight in stored:
        rows = weight.reshape(-1, weight.shape[-1], 1)
        share = macs * weight.size // total or None
        yield Layer(name, node.op_type, weight.shape, 1, share, measure(rows))


def _gathered(value: ir.Value) -> Iterator[tuple[str, Array]]:
    """The matrices that ``value`` is put together from, each once, as exporters order gates."""
    names: set[str] = set()
    pending = [value]
    while pending:
        value = pending.pop()
        stored, producer = _constant(value), value.producer()
        if stored is not None and stored[0] not in names and stored[1].ndim > 1:
            names.add(stored[0])
            yield stored
        elif producer is not None and producer.op_type in MOVES:
            inputs = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
            pending.extend(each for each in reversed(inputs) if each is not None)


def _weight_of(node: ir.Node) -> tuple[str, Array] | None:
    """The constant that ``node`` multiplies with, as its operator reads it.

    Integers are given as their distance from the zero point: those that stand for zero are zero.
    """
    op, at, zero_point = INTEGER.get(node.op_type, (node.op_type, 1, -1))
    if op not in MIN_AXES or len(node.inputs) <= at or (value := node.inputs[at]) is None:
        return None
    weight = _constant(value) if zero_point < 0 else _stored(node, at, zero_point, _last(op))
    if weight is None or weight[1].ndim < MIN_AXES[op]:
        return None
    return weight


def _last(op: str) -> int:
    """The axis of a weight that its outputs are on."""
    return -1 if op == "MatMul" else 0


def _stored(node: ir.Node, at: int, zero_point: int, axis: int) -> tuple[str, Array] | None:
    """Integers less their zero point, which is one or one an index of ``axis``."""
    import onnx_ir as ir

    value = node.inputs[at]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or tensor is None:
        return None
    stored = tensor.numpy().astype("float32")
    offset = node.inputs[zero_point] if len(node.inputs) > zero_point else None
    if offset is None:
        return str(value.name), stored
    zero = ir.convenience.get_const_tensor(offset)
    if zero is None:
        return None
    shape = [1] * stored.ndim
    if zero.size > 1 and zero.size == stored.shape[axis]:
        shape[axis] = zero.size
    elif zero.size > 1:
        return None
    return str(value.name), stored - zero.numpy().astype("float32").reshape(shape)


def _constant(value: ir.Value) -> tuple[str, Array] | None:
    """Name and content of a constant, through the Transpose and Identity that exporters leave.

    Of one that is quantised and back, as SparseML, torch and ONNX Runtime write it, the integers.
    """
    import onnx_ir as ir

    producer = value.producer()
    if producer is not None and producer.op_type in ("Transpose", "Identity"):
        source = producer.inputs[0]
        inner = None if source is None else _constant(source)
        if inner is None or producer.op_type == "Identity":
            return inner
        return inner[0], inner[1].transpose(producer.attributes.get_ints("perm") or None)
    if producer is not None and producer.op_type == "DequantizeLinear":
        source = producer.inputs[0]
        maker = None if source is None else source.producer()
        if maker is not None and maker.op_type == "QuantizeLinear":
            return _rounded(maker)
        return _stored(producer, 0, 2, producer.attributes.get_int("axis", 1))
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    return str(value.name), tensor.numpy()


def _rounded(node: ir.Node) -> tuple[str, Array] | None:
    """The integers that a QuantizeLinear makes of a constant, but for their zero point."""
    import numpy as np
    import onnx_ir as ir

    weight = None if node.inputs[0] is None else _constant(node.inputs[0])
    scale = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
    if weight is None or scale is None:
        return None
    name, stored = weight
    axis, shape = node.attributes.get_int("axis", 1), [1] * stored.ndim
    if scale.size > 1 and -stored.ndim <= axis < stored.ndim and scale.size == stored.shape[axis]:
        shape[axis] = scale.size
    elif scale.size > 1:
        return None
    return name, np.rint(stored / scale.numpy().reshape(shape))


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
            count = macs.get(owner_name)
            if count and hasattr(owner, "hidden_size"):  # several weights have a part each
                count = count * weight.size // _gate_weights(owner)
            yield Layer(name, op, shape, groups, count, measure(rows, groups))


def _gate_weights(layer: torch.nn.Module) -> int:
    """How many weights the gates of an LSTM, GRU or RNN have."""
    return sum(each.numel() for each in layer.parameters(recurse=False) if each.ndim > 1)


def module_macs(module: torch.nn.Module, shape: tuple[int, ...] | None) -> dict[str, int]:
    """Multiply-accumulates of one sample by name of layer, from one run; none without a shape."""
    import torch

    macs: dict[str, int] = {}

    def count(name: str, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(layer, torch.nn.RNNBase):  # every step meets all weights
            steps = inputs[0].shape[int(layer.batch_first)]
            macs[name] = macs.get(name, 0) + steps * _gate_weights(layer)
            return
        # every output element (input, when transposed) meets one filter
        swept = inputs[0] if getattr(layer, "transposed", False) else output
        macs[name] = macs.get(name, 0) + swept.numel() // len(swept) * layer.weight[0].numel()

    if shape is None or isinstance(module, torch.jit.ScriptModule):
        return macs
    products = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.RNNBase)
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
