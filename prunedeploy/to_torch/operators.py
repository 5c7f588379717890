"""ONNX operators as differentiable torch functions: one row each. To add an operator, add a row.

Convolutions and pools are the kernels of the reference interpreter. Every function takes the node
and its inputs and gives the result, or a tuple of results.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from prunedeploy.reference.opsets import drops, scales_channels, softmax_axes
from prunedeploy.reference.torch_kernels import TORCH
from prunedeploy.to_torch.recurrent import ORDER, recurrent
from prunedeploy.to_torch.values import CannotExpress

Operator = Callable[..., Any]


def _float(node: ir.Node, name: str, default: float) -> float:
    """An attribute; its default is a float32 in ONNX, as all are."""
    return node.attributes.get_float(name, float(np.float32(default)))


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, x: function(x)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, *inputs: reduce(function, inputs)


def _alpha(function: Callable[[Tensor, float], Tensor], default: float) -> Operator:
    return lambda node, x: function(x, _float(node, "alpha", default))


def _dtype(number: int) -> torch.dtype:
    name = ir.DataType(number).numpy().name
    return getattr(torch, {"bool": "bool"}.get(name, name))  # type: ignore[no-any-return]


def _cast(node: ir.Node, x: Tensor) -> Tensor:
    return x.to(_dtype(node.attributes.get_int("to", 1)))


def _divide(_: ir.Node, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _clip(
    node: ir.Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    if "min" in node.attributes or "max" in node.attributes:  # before opset 11
        low_, high_ = (node.attributes.get_float(k, None) for k in ("min", "max"))
        return torch.clamp(x, low_, high_)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _hard_sigmoid(node: ir.Node, x: Tensor) -> Tensor:
    alpha, beta = _float(node, "alpha", 0.2), _float(node, "beta", 0.5)
    return torch.clamp(alpha * x + beta, 0, 1)


def _selu(node: ir.Node, x: Tensor) -> Tensor:
    alpha = _float(node, "alpha", 1.67326319217681884765625)
    gamma = _float(node, "gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def _gelu(node: ir.Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.attributes.get_string("approximate", "none"))


def _prelu(_: ir.Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _mod(node: ir.Node, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if node.attributes.get_int("fmod", 0) else torch.remainder(x, y)


def _gemm(node: ir.Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.attributes.get_int("transA", 0) else a
    b = b.t() if node.attributes.get_int("transB", 0) else b
    alpha, beta = (node.attributes.get_float(k, 1.0) for k in ("alpha", "beta"))
    product = a @ b if alpha == 1.0 else alpha * (a @ b)
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


def _einsum(node: ir.Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.attributes.get_string("equation", ""), *inputs)


def _epsilon(node: ir.Node) -> float:
    return _float(node, "epsilon", 1e-5)


def _batch_norm(
    node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    if not scales_channels(node):
        raise CannotExpress("it normalises with statistics of the batch, or every element")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, _epsilon(node))


def _instance_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=_epsilon(node))


def _group_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.attributes.get_int("num_groups", 1)
    if scale.shape[0] != x.shape[1]:  # opset 18: one number a group
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, _epsilon(node))


def _layer_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = node.attributes.get_int("axis", -1) % x.dim()
    shape = [int(n) for n in x.shape[axis:]]
    if tuple(scale.shape) != tuple(shape):
        plain = F.layer_norm(x, shape, eps=_epsilon(node)) * scale
        return plain if bias is None else plain + bias
    return F.layer_norm(x, shape, scale, bias, _epsilon(node))


def _rms_norm(node: ir.Node, x: Tensor, scale: Tensor) -> Tensor:
    axis = node.attributes.get_int("axis", -1) % x.dim()
    square = (x * x).mean(list(range(axis, x.dim())), keepdim=True)
    return x / torch.sqrt(square + _epsilon(node)) * scale


def _softmax(node: ir.Node, x: Tensor, function: Operator = F.softmax) -> Any:
    axes = softmax_axes(node, x.dim())
    if len(axes) == 1:
        return function(x, axes[0])
    return function(x.flatten(axes[0]), -1).reshape(x.shape)


def _is_inf(node: ir.Node, x: Tensor) -> Tensor:
    positive, negative = (node.attributes.get_int(f"detect_{s}", 1) for s in _SIGNS)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask = mask | torch.isposinf(x) if positive else mask
    return mask | torch.isneginf(x) if negative else mask


def _global_pool(function: Callable[..., Tensor]) -> Operator:
    return lambda _, x: function(x, list(range(2, x.dim())), keepdim=True)


def _window(name: str) -> Operator:
    def run(node: ir.Node, *inputs: Tensor) -> Tensor:
        result = TORCH[name](node, *inputs)
        if result is None:
            raise CannotExpress("torch has no such window (ceil_mode, dilation or padding)")
        return result

    return run


def _dropout(node: ir.Node, x: Tensor, *_: Tensor) -> Tensor:
    if drops(node):
        raise CannotExpress("it drops elements")
    if any(value.uses() for value in node.outputs[1:]):
        raise CannotExpress("its mask is read")
    return x


def _arg(function: Callable[..., Tensor]) -> Operator:
    def run(node: ir.Node, x: Tensor) -> Tensor:
        if node.attributes.get_int("select_last_index", 0):
            raise CannotExpress("it asks for the last of equal values")
        axis = node.attributes.get_int("axis", 0)
        return function(x, axis, bool(node.attributes.get_int("keepdims", 1)))

    return run


def _depth_to_space(node: ir.Node, x: Tensor) -> Tensor:
    block = node.attributes.get_int("blocksize", 1)
    if node.attributes.get_string("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    split = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(node: ir.Node, x: Tensor) -> Tensor:
    block = node.attributes.get_int("blocksize", 1)
    n, c, h, w = x.shape
    if node.attributes.get_string("mode", "DCR") == "CRD":  # from opset 28 on
        return F.pixel_unshuffle(x, block)
    split = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n, c * block**2, h // block, w // block)


_SIGNS = ("positive", "negative")
_UNARY = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf"),
    *("exp", "floor", "log", "neg", "reciprocal", "relu", "round", "sigmoid", "sign", "sin"),
    *("sinh", "sqrt", "tan", "tanh"),
)

# On tensors alone.
OPERATORS: dict[str, Operator] = {
    **{name.capitalize(): _unary(getattr(torch, name)) for name in _UNARY},
    **{name: _window(name) for name in TORCH},
    **dict.fromkeys(ORDER, recurrent),
    "Add": _fold(torch.add),
    "And": _fold(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda _, x, y: x.to(y.dtype),
    "Celu": _alpha(lambda x, alpha: F.celu(x, alpha), 1.0),
    "Clip": _clip,
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": _alpha(lambda x, alpha: F.elu(x, alpha), 1.0),
    "Equal": _fold(torch.eq),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "Greater": _fold(torch.gt),
    "GreaterOrEqual": _fold(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "IsInf": _is_inf,
    "IsNaN": _unary(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _alpha(lambda x, alpha: F.leaky_relu(x, alpha), 0.01),
    "Less": _fold(torch.lt),
    "LessOrEqual": _fold(torch.le),
    "LogSoftmax": partial(_softmax, function=F.log_softmax),
    "MatMul": _fold(torch.matmul),
    "Max": _fold(torch.maximum),
    "Mean": lambda _, *inputs: reduce(torch.add, inputs) / len(inputs),
    "Min": _fold(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _mod,
    "Mul": _fold(torch.mul),
    "Not": _unary(torch.logical_not),
    "Or": _fold(torch.logical_or),
    "PRelu": _prelu,
    "Pow": lambda _, x, y: torch.pow(x, y).to(x.dtype),
    "RMSNormalization": _rms_norm,
    "Selu": _selu,
    "Softmax": _softmax,
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Sub": _fold(torch.sub),
    "Sum": _fold(torch.add),
    "Swish": _alpha(lambda x, alpha: x * torch.sigmoid(alpha * x), 1.0),
    "ThresholdedRelu": _alpha(lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)), 1.0),
    "Where": lambda _, condition, x, y: torch.where(condition, x, y),
    "Xor": _fold(torch.logical_xor),
}
