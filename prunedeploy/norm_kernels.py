"""Normalisations that onnx.reference cannot run, since ONNX defines them by functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from prunedeploy.types import Array

EPSILON = float(np.float32(1e-5))  # as ONNX stores it


def group_normalization(node: ir.Node, x: Array, scale: Array, bias: Array) -> Array:
    """Scale and bias are one number a group before opset 21, one a channel from then on."""
    groups = node.attributes.get_int("num_groups", 1)
    parts = x.reshape(x.shape[0], groups, -1)
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    deviation = np.sqrt(parts.var(axis=2, keepdims=True) + epsilon)
    parts = (parts - parts.mean(axis=2, keepdims=True)) / deviation
    scale, bias = (_by_channel(vector, x) for vector in (scale, bias))
    return np.asarray(np.add(np.multiply(parts.reshape(x.shape), scale), bias)).astype(x.dtype)


def _by_channel(vector: Array, x: Array) -> Array:
    each = vector.repeat(x.shape[1] // len(vector))
    return each.reshape(-1, *[1] * (x.ndim - 2))


def mean_variance_normalization(node: ir.Node, x: Array) -> Array:
    """The standard deviation is kept from zero by 1e-9."""
    axes = tuple(node.attributes.get_ints("axes", [0, 2, 3]))
    deviation = x.std(axis=axes, keepdims=True) + 1e-9
    return np.asarray((x - x.mean(axis=axes, keepdims=True)) / deviation).astype(x.dtype)


KERNELS: dict[str, Callable[..., Array]] = {
    "GroupNormalization": group_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
