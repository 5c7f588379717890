"""The kernels of the interpreter: convolutions and pools on torch, a few operators on NumPy.

Those that ``onnx.reference`` is slow at, or gets wrong. A kernel returns None where it does not
know the case; ``onnx.reference`` then computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from prunedeploy import norm_kernels
from prunedeploy.recurrence import gru, lstm, rnn
from prunedeploy.torch_kernels import TORCH, TorchKernel
from prunedeploy.types import Array

# What a node's inputs come to, or None where onnx.reference is to compute it.
Kernel = Callable[..., Array | tuple[Array, ...] | None]


def _tensor(array: Any) -> torch.Tensor | None:
    # a copy only where torch needs one: negative strides, read-only buffers
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    # an axis of length one may still have a negative stride
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.copy())


def _on_torch(kernel: TorchKernel) -> Kernel:
    def run(node: ir.Node, *inputs: Any) -> Array | None:
        with torch.no_grad():
            result = kernel(node, *map(_tensor, inputs))
        return None if result is None else result.contiguous().numpy()

    return run


def _batch_normalization(
    node: ir.Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> Array | None:
    """The form of inference; onnx.reference mixes the batch's statistics in below opset 14."""
    if node.attributes.get_int("training_mode", 0):
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise ValueError("statistics of the batch, which only training computes, are read")
    parameters: list[Any] = [scale, bias, mean, var]
    if node.attributes.get_int("spatial", 1):
        parameters = [p.reshape(-1, *[1] * (x.ndim - 2)) for p in parameters]
    s, b, m, v = parameters
    epsilon = node.attributes.get_float("epsilon", float(np.float32(1e-5)))  # as ONNX stores it
    # the order of operations of onnx.reference at opset 14
    return np.asarray(s * (x - m) / np.sqrt(v + epsilon) + b).astype(x.dtype)


def _pad_with_crops(
    node: ir.Node,
    x: Array,
    pads: Array | None = None,
    value: Array | None = None,
    axes: Array | None = None,
) -> Array | None:
    """Pad where some pads are negative and cut, which NumPy has no word for."""
    attribute = "pads" if "pads" in node.attributes else "paddings"
    listed = node.attributes.get_ints(attribute, []) if pads is None else pads.tolist()
    if not listed or min(listed) >= 0:
        return None
    begins, ends = [0] * x.ndim, [0] * x.ndim
    half = len(listed) // 2
    for i, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
        begins[axis], ends[axis] = listed[i], listed[half + i]
    cut = [(max(0, -b), n - max(0, -e)) for b, e, n in zip(begins, ends, x.shape, strict=True)]
    if any(start > stop for start, stop in cut):
        raise ValueError(f"pads {list(listed)} cut off more than there is")
    kept = x[tuple(slice(start, stop) for start, stop in cut)]
    width = [(max(0, b), max(0, e)) for b, e in zip(begins, ends, strict=True)]
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return np.pad(kept, width, mode=mode)  # type: ignore[call-overload,no-any-return]
    fill = node.attributes.get_float("value", 0.0) if value is None else value.reshape(())
    return np.pad(kept, width, constant_values=fill)


def _upsample(node: ir.Node, x: Array, scales: Array | None = None) -> Array:
    """Every axis in turn; output i lies at i / scale, as float32 has it, like the engines."""
    factors = node.attributes.get_floats("scales", []) if scales is None else scales.tolist()
    mode = node.attributes.get_string("mode", "nearest")
    if len(factors) != x.ndim or mode not in ("nearest", "linear"):
        raise ValueError(f"mode {mode} with scales {list(factors)} is not supported")
    y: Any = x
    for axis, factor in enumerate(np.asarray(factors, np.float32)):
        size = x.shape[axis]
        if factor == 1 or not size:
            continue
        last = np.float32(size - 1)
        at = np.minimum(np.arange(int(np.float32(size) * factor), dtype=np.float32) / factor, last)
        low = at.astype(np.int64)
        below = y.take(low, axis)
        if mode == "nearest":
            y = below
            continue
        above = y.take(np.minimum(low + 1, size - 1), axis)
        part = (at - low).astype(np.float64 if x.dtype == np.float64 else np.float32)
        part = part.reshape(-1, *[1] * (x.ndim - axis - 1))
        y = below * (1 - part) + above * part
    return np.asarray(y).astype(x.dtype)


def _gather_elements(node: ir.Node, x: Array, indices: NDArray[np.int64]) -> Array:
    """onnx.reference fails on a first axis of one. The other axes may be shorter in ``indices``."""
    axis = node.attributes.get_int("axis", 0) % x.ndim
    within = tuple(slice(None if a == axis else n) for a, n in enumerate(indices.shape))
    return np.take_along_axis(x[within], indices, axis)


KERNELS: dict[str, Kernel] = {
    **{name: _on_torch(kernel) for name, kernel in TORCH.items()},
    "BatchNormalization": _batch_normalization,
    **norm_kernels.KERNELS,
    "GatherElements": _gather_elements,
    "GRU": gru,
    "LSTM": lstm,
    "Pad": _pad_with_crops,
    "RNN": rnn,
    "Upsample": _upsample,
}
