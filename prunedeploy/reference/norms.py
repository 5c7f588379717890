"""Normalisations: what their statistics are taken over, version by version."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference import table
from prunedeploy.reference.table import Numbers, Table, integer, integers, number, same, within

EPSILON = 1e-5


def _by_channel(vector: Numbers, x: Numbers) -> Numbers:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _normalised(node: ir.Node, x: Numbers, mean: Numbers, var: Numbers) -> Numbers:
    return (x - mean) / np.sqrt(var + number(node, "epsilon", EPSILON))


def _inference(
    node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers, mean: Numbers, var: Numbers
) -> Any:
    """Normalise with given statistics; ``spatial`` 0 (before opset 9) has them per element."""
    parameters = [scale, bias, mean, var]
    if integer(node, "spatial", 1):
        parameters = [_by_channel(p, x) for p in parameters]
    s, b, m, v = parameters
    epsilon = number(node, "epsilon", EPSILON)
    return (s * (x - m) / np.sqrt(v + epsilon) + b).astype(x.dtype)


def _training(
    node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers, mean: Numbers, var: Numbers
) -> tuple[Any, ...]:
    """Normalise with the statistics of the batch, and update the running ones."""
    axes = (0, *range(2, x.ndim))
    batch_mean, batch_var = x.mean(axes), x.var(axes)
    y = _inference(node, x, scale, bias, batch_mean, batch_var)
    share = number(node, "momentum", 0.9)
    running = [
        (old * share + new * (1 - share)).astype(old.dtype)
        for old, new in ((mean, batch_mean), (var, batch_var))
    ]
    return y, *running, batch_mean, None


def _batch_norm_by_outputs(node: ir.Node, *inputs: Numbers) -> Any:
    """BatchNormalization before opset 14: five outputs mean training, one means inference."""
    count = sum(table.wanted(node, i) for i in range(len(node.outputs)))
    if count == 1:
        return _inference(node, *inputs)
    if count != 5:
        raise ValueError(f"{count} outputs, where inference has one and training five")
    if not integer(node, "spatial", 1):
        raise ValueError("training with statistics per element is not known")
    saved = node.outputs[4]
    if saved.uses() or saved.is_graph_output():
        raise ValueError("its output 4 is read, which ONNX leaves to the runtime")
    return _training(node, *inputs)


def _batch_norm(node: ir.Node, *inputs: Numbers) -> Any:
    """BatchNormalization from opset 14 on: an attribute says whether it trains."""
    if not integer(node, "training_mode", 0):
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            raise ValueError("statistics of the batch, which only training computes, are read")
        return _inference(node, *inputs)
    return _training(node, *inputs)[:3]


def _instance_norm(node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers) -> Numbers:
    axes = tuple(range(2, x.ndim))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return _normalised(node, x, mean, var) * _by_channel(scale, x) + _by_channel(bias, x)


def _groups(node: ir.Node, x: Numbers) -> Numbers:
    parts = x.reshape(len(x), integer(node, "num_groups", 1), -1)
    mean, var = parts.mean(2, keepdims=True), parts.var(2, keepdims=True)
    return _normalised(node, parts, mean, var).reshape(x.shape)


def _group_norm_18(node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers) -> Numbers:
    """Scale and bias are one number a group."""
    groups = integer(node, "num_groups", 1)
    if scale.shape != (groups,) or bias.shape != (groups,):
        raise ValueError(f"scale and bias of {len(scale)} and {len(bias)} for {groups} groups")
    each = x.shape[1] // groups
    scale, bias = (_by_channel(vector.repeat(each), x) for vector in (scale, bias))
    return (_groups(node, x) * scale + bias).astype(x.dtype)


def _group_norm(node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers) -> Numbers:
    """Scale and bias are one number a channel."""
    channels = x.shape[1]
    if scale.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"scale and bias of {len(scale)} and {len(bias)} for {channels} channels")
    return (_groups(node, x) * _by_channel(scale, x) + _by_channel(bias, x)).astype(x.dtype)


def _last_axes(node: ir.Node, x: Numbers) -> tuple[int, ...]:
    return tuple(range(within(integer(node, "axis", -1), x.ndim), x.ndim))


def _layer_norm(
    node: ir.Node, x: Numbers, scale: Numbers, bias: Numbers | None = None
) -> tuple[Any, ...]:
    """Compute in the type of x, at least float32, which is what ``stash_type`` requires."""
    axes = _last_axes(node, x)
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    var = np.square(centred).mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(var + number(node, "epsilon", EPSILON))
    y = centred * inverse * scale
    return (y if bias is None else y + bias).astype(x.dtype), mean, inverse


def _rms_norm(node: ir.Node, x: Numbers, scale: Numbers) -> Any:
    squares = np.square(x).mean(_last_axes(node, x), keepdims=True)
    normal = x / np.sqrt(squares + number(node, "epsilon", EPSILON))
    return (normal * scale).astype(scale.dtype)


def _mean_variance(node: ir.Node, x: Numbers) -> Any:
    """The deviation is kept from zero by 1e-9."""
    axes = tuple(within(a, x.ndim) for a in integers(node, "axes", [0, 2, 3]))
    deviation = x.std(axis=axes, keepdims=True) + 1e-9
    return ((x - x.mean(axis=axes, keepdims=True)) / deviation).astype(x.dtype)


def _lp_norm(node: ir.Node, x: Numbers) -> Numbers:
    """Zero where the norm is."""
    axis, p = within(integer(node, "axis", -1), x.ndim), integer(node, "p", 2)
    if p not in (1, 2):
        raise ValueError(f"a norm of order {p}")
    size = np.abs(x) if p == 1 else np.square(x)
    norm = size.sum(axis, keepdims=True)
    norm = norm if p == 1 else np.sqrt(norm)
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype)


def _lrn(node: ir.Node, x: Numbers) -> Numbers:
    """Divided by the squares of the channels around."""
    size, channels = integer(node, "size", 1), x.shape[1]
    squares, total = np.square(x), np.zeros_like(x)
    for c in range(channels):
        first = max(0, c - (size - 1) // 2)
        last = min(channels - 1, c + math.ceil((size - 1) / 2))
        total[:, c] = squares[:, first : last + 1].sum(axis=1)
    alpha, beta = number(node, "alpha", 1e-4), number(node, "beta", 0.75)
    return x / (number(node, "bias", 1.0) + alpha / size * total) ** beta


TABLE: Table = {
    "BatchNormalization": same(_batch_norm_by_outputs, 7, 9) | same(_batch_norm, 14, 15),
    "GroupNormalization": same(_group_norm_18, 18) | same(_group_norm, 21),
    "InstanceNormalization": same(_instance_norm, 6, 22),
    "LRN": same(_lrn, 1, 13),
    "LayerNormalization": same(_layer_norm, 17),
    "LpNormalization": same(_lp_norm, 1, 22),
    "MeanVarianceNormalization": same(_mean_variance, 9, 13),
    "RMSNormalization": same(_rms_norm, 23),
}
