"""Shapes of inputs that a file leaves out, as far as the operators that read them fix one.

A convolution with weights of four axes takes inputs of four, and as many channels as its weights
have; a matrix product takes any number of axes, so it says nothing.
"""

from __future__ import annotations

import onnx_ir as ir

Dims = tuple[int | None, ...]

UNARY = frozenset((
    "Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LRN", "LeakyRelu", "Log",
    "Neg", "Pad", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt",
    "Tanh",
))  # fmt: skip
WITH_CONSTANT = frozenset(("Add", "Div", "Mul", "Pow", "PRelu", "Sub"))
POOLS = frozenset(("AveragePool", "LpPool", "MaxPool"))
RECURRENT = frozenset(("GRU", "LSTM", "RNN"))


def state(graph: ir.Graph) -> None:
    """Give the inputs of ``graph`` that have no shape the one that their readers want, if any."""
    for value in graph.inputs:
        if value.shape is None and isinstance(value.type, ir.TensorType):
            dims = _wanted(value)
            value.shape = None if dims is None else ir.Shape(dims)


def _wanted(value: ir.Value) -> Dims | None:
    """The sizes of ``value``'s axes, None for open ones; None where no reader says how many."""
    for node, index in value.uses():
        if (dims := _by(node, index)) is not None:
            return dims
    return None


def _by(node: ir.Node, index: int) -> Dims | None:
    constant = all(_is_constant(x) for i, x in enumerate(node.inputs) if i != index)
    if (node.op_type in UNARY and index == 0) or (node.op_type in WITH_CONSTANT and constant):
        return _wanted(node.outputs[0])
    if index != 0 or node.domain:
        return None
    if node.op_type == "Transpose":
        return _before_transpose(node)
    if node.op_type in POOLS:
        return (None, None, *(None for _ in node.attributes.get_ints("kernel_shape", ())))
    return _by_weight(node)


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def _before_transpose(node: ir.Node) -> Dims | None:
    order = node.attributes.get_ints("perm", ())
    if not order:
        return None
    after = _wanted(node.outputs[0]) or (None,) * len(order)
    return tuple(after[order.index(axis)] for axis in range(len(order)))


def _by_weight(node: ir.Node) -> Dims | None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    sizes = weight.shape.numpy()
    if node.op_type in ("Conv", "ConvTranspose") and len(sizes) > 2:
        groups = node.attributes.get_int("group", 1)
        channels = sizes[1] * groups if node.op_type == "Conv" else sizes[0]
        return (None, channels, *(None for _ in sizes[2:]))
    if node.op_type == "Gemm" and len(sizes) == 2:
        depth = sizes[1 if node.attributes.get_int("transB", 0) else 0]
        return (depth, None) if node.attributes.get_int("transA", 0) else (None, depth)
    if node.op_type in RECURRENT and len(sizes) == 3:
        return (None, None, sizes[2])
    return None
