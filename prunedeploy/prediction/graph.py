"""The layers of an ONNX graph as a stock runtime computes them: every zero, and what it fuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.graph import tensors
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.graph.work import RECURRENT, macs, swept_value
from prunedeploy.prediction.record import Work

FEW_ROWS = 16  # below, a linear layer is bound by the reading of its weights

# The class of every operator that is known; convolutions and products are told apart further.
KERNELS: Mapping[str, tuple[str, ...]] = {
    "conv": ("Conv", "ConvTranspose"),
    "product": ("MatMul", "Gemm", "Einsum"),
    "elementwise": (
        "Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Clip", "Div", "Equal", "Floor",
        "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual",
        "Max", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
        "Sign", "Sqrt", "Sub", "Sum", "Where",
    ),
    "function": (
        "Cos", "Elu", "Erf", "Exp", "Gelu", "Log", "LogSoftmax", "Mish", "Selu", "Sigmoid", "Silu",
        "Sin", "Softmax", "Softplus", "Swish", "Tanh",
    ),
    "reduce": (
        "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization",
        "InstanceNormalization", "LayerNormalization", "LpNormalization", "RMSNormalization",
        "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare", "SimplifiedLayerNormalization",
    ),
    "pool": ("AveragePool", "LpPool", "MaxPool"),
    "move": (
        "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Resize",
        "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
    ),
    "view": (
        "Constant", "ConstantOfShape", "Dropout", "Flatten", "Identity", "Range", "Reshape",
        "Shape", "Size", "Squeeze", "Unsqueeze",
    ),
}  # fmt: skip
KERNEL_OF = {op: kernel for kernel, ops in KERNELS.items() for op in ops}

# What is computed while the result of the layer before is still at hand.
ACTIVATIONS = ("Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
BEHIND_CONV = (*ACTIVATIONS, "Add", "BatchNormalization")
BEHIND_PRODUCT = ("Add", "Relu")


@dataclass(frozen=True)
class Style:
    """The style of a runtime: channels rounded up to a multiple, elementwise chains fused.

    ``width`` is how many bytes it stores a number in that is float32 in the model.
    """

    multiple: int = 1
    fuses_chains: bool = False
    width: float = 4.0


def works(model: ir.Model, batch: int, style: Style) -> tuple[tuple[Work, ...], tuple[str, ...]]:
    """The layers of ``model`` for ``batch`` inputs, and notes on those that are a guess.

    The shapes of ``model`` are filled in, in place.

    Raises:
        UserError: an input has open sizes other than the batch.
    """
    fix_shapes(model, batch)
    latest: dict[ir.Value, Work] = {}  # by the value that holds the layer's result so far
    done: list[Work] = []
    unknown: dict[str, int] = {}
    for node in model.graph:
        if _is_folded(node):
            continue
        if (before := _fused_into(node, latest, style)) is not None:
            work = latest.pop(before)
            added = sum(_bytes(value, style) for value in node.inputs if value is not before)
            done[done.index(work)] = work = replace(work, moved=work.moved + added)
        else:
            if node.op_type not in KERNEL_OF or node.domain not in ("", "ai.onnx"):
                unknown[node.op_type] = unknown.get(node.op_type, 0) + 1
            work = _work(node, style)
            done.append(work)
        if node.outputs:
            latest[node.outputs[0]] = work
    notes = tuple(
        f"{count} of {op}: no figures, counted as bound by memory" for op, count in unknown.items()
    )
    return tuple(done), notes


def fix_shapes(model: ir.Model, batch: int) -> None:
    """Give inputs the batch, and all values behind them their sizes."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    first = {dim.value for value in inputs for dim in list(value.shape or ())[:1] if _named(dim)}
    for value in inputs:
        dims = list(value.shape or ())
        if any(not isinstance(d, int) and d.value not in first for d in dims[1:]):
            raise UserError(
                f"input {value.name!r} has open sizes beside the batch: export it with fixed ones"
            )
        if any(not isinstance(dim, int) for dim in dims):
            value.shape = ir.Shape([dim if isinstance(dim, int) else batch for dim in dims])
        elif dims and dims[0] != batch and batch != 1:
            raise UserError(f"the model takes batches of {dims[0]} only, not {batch}")
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    infer_shapes(model)


def _named(dim: int | ir.SymbolicDim) -> TypeGuard[ir.SymbolicDim]:
    return not isinstance(dim, int) and dim.value is not None


def _is_folded(node: ir.Node) -> bool:
    """True for a node that is computed once, when the model is opened."""
    if node.op_type in ("Constant", "Shape", "Size"):
        return True
    given = [value for value in node.inputs if value is not None]
    return bool(given) and all(
        value.const_value is not None
        or ((producer := value.producer()) is not None and _is_folded(producer))
        for value in given
    )


def _fused_into(node: ir.Node, latest: Mapping[ir.Value, Work], style: Style) -> ir.Value | None:
    """The value whose layer computes ``node`` too; None where it is a layer of its own."""
    for value in node.inputs:
        if value is None or value not in latest or len(list(value.uses())) != 1:
            continue
        kernel, op = latest[value].kernel, node.op_type
        chain = style.fuses_chains and KERNEL_OF.get(op) in ("elementwise", "function")
        if kernel in ("conv", "pointwise", "depthwise", "grouped") and (op in BEHIND_CONV or chain):
            return value
        constant = all(
            x is value or (x is not None and x.const_value is not None) for x in node.inputs
        )
        if kernel in ("linear", "vector", "product") and (
            (op in BEHIND_PRODUCT and constant) or chain
        ):
            return value
        if kernel in ("elementwise", "function") and chain:
            return value
    return None


def _work(node: ir.Node, style: Style) -> Work:
    kernel = KERNEL_OF.get(node.op_type, "elementwise")
    name = node.name or (node.outputs[0].name if node.outputs else "") or node.op_type
    weights = sum(_bytes(value, style) for value in node.inputs if _is_constant(value))
    read = sum(_bytes(value, style) for value in node.inputs if not _is_constant(value))
    moved = read + sum(_bytes(value, style) for value in node.outputs)
    flops = float(sum(map(_size, node.outputs)))
    if kernel == "view" or _is_index(node):
        return Work(name, "view", 0.0, 0, 0)
    if node.op_type in RECURRENT:  # every step is a product of a vector
        sequence = _shape(node.inputs[0])
        batch = sequence[1 - node.attributes.get_int("layout", 0)] if len(sequence) == 3 else 0
        return Work(name, "vector", 2.0 * batch * macs(node), weights, moved)
    if kernel == "conv":
        kernel, flops = _conv(node, style)
    elif kernel == "product":
        kernel, flops = _product(node)
    elif node.op_type in ("Gather", "GatherElements", "GatherND"):
        # the rows that are looked up
        weights, moved = 0, 2 * sum(_bytes(value, style) for value in node.outputs)
    elif kernel in ("pool", "reduce", "function"):
        flops = float(max(flops, sum(_size(value) for value in node.inputs[:1])))
    return Work(name, kernel, flops, weights, moved)


def _conv(node: ir.Node, style: Style) -> tuple[str, float]:
    """Its class, and the operations with channels rounded up as the runtime computes them."""
    weight = _shape(node.inputs[1]) if len(node.inputs) > 1 else ()
    if not weight:
        return "conv", 0.0
    samples = next(iter(_shape(swept_value(node))), 0)
    outer, inner = weight[:2]
    pair = samples * macs(node) // max(outer * inner, 1)  # of an input and an output channel
    grouped = node.attributes.get_int("group", 1) > 1
    if grouped and inner == 1 and node.op_type == "Conv":
        return "depthwise", 2.0 * pair * _up(outer, style)
    if grouped:
        return "grouped", 2.0 * pair * outer * inner
    kernel = "pointwise" if math.prod(weight[2:]) == 1 else "conv"
    # few channels are read as they lie
    inner = _up(inner, style) if inner >= style.multiple else inner
    return kernel, 2.0 * pair * _up(outer, style) * inner


def _product(node: ir.Node) -> tuple[str, float]:
    """Linear layers by the number of their rows; products of two computed tensors."""
    shapes = [_shape(value) for value in node.inputs[:2]]
    result = _shape(node.outputs[0])
    if not result or not all(shapes):
        return "product", 0.0
    if node.op_type == "Einsum":  # every index once
        equation = node.attributes.get_string("equation", "").replace(" ", "")
        sizes: dict[str, int] = {}
        for letters, shape in zip(equation.partition("->")[0].split(","), shapes, strict=False):
            sizes |= dict(zip(letters, shape, strict=False))
        return "product", 2.0 * math.prod(sizes.values())
    flops = 2.0 * result[0] * macs(node)
    if not any(map(_is_constant, node.inputs[:2])):
        return "product", flops
    rows = math.prod(result[:-1])
    return ("linear" if rows >= FEW_ROWS else "vector"), flops


def _up(channels: int, style: Style) -> int:
    return -(-channels // style.multiple) * style.multiple


def _is_constant(value: ir.Value | None) -> bool:
    if value is None or value.const_value is not None:
        return True
    producer = value.producer()
    return producer is not None and _is_folded(producer)


def _is_index(node: ir.Node) -> bool:
    """True for a node that computes shapes or indices instead of the network's numbers."""
    kind = node.outputs[0].dtype if node.outputs else None
    return kind in (ir.DataType.INT64, ir.DataType.INT32) and _size(node.outputs[0]) <= FEW_ROWS


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """Its sizes; empty where one is not known."""
    if value is None or value.shape is None:
        return ()
    dims = list(value.shape)
    return (
        tuple(d for d in dims if isinstance(d, int))
        if all(isinstance(d, int) for d in dims)
        else ()
    )


def _size(value: ir.Value | None) -> int:
    shape = _shape(value)
    return math.prod(shape) if shape else 0


def _bytes(value: ir.Value | None, style: Style) -> int:
    kind = value.dtype if value is not None else None
    if kind is None or kind == ir.DataType.FLOAT:
        return int(_size(value) * style.width)
    return int(_size(value) * tensors.element_bytes(kind))
