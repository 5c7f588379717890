"""Convolutions and pools of ONNX as torch functions: for the reference and for torch programs.

Each function imports torch itself: what only looks kernels up has no need of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

if TYPE_CHECKING:
    import torch

# None where torch has no such operation in this form.
TorchKernel: TypeAlias = "Callable[..., torch.Tensor | None]"


def window(
    node: ir.Node, size: list[int], kernel: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (begins, then ends) of a convolution or pool."""
    rank = len(size)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return strides, dilations, list(node.attributes.get_ints("pads", [0] * 2 * rank))
    if auto == "VALID":
        return strides, dilations, [0] * 2 * rank
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return strides, dilations, less + more if auto == "SAME_UPPER" else more + less


def pad(x: torch.Tensor, pads: list[int], value: float) -> torch.Tensor:
    """Pads as ONNX lists them, all begins and then all ends, axis by axis."""
    import torch.nn.functional as F

    rank = len(pads) // 2
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, pairs, value=value) if any(pads) else x


def convolution(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Any padding, in one to three dimensions; None for others."""
    import torch.nn.functional as F

    strides, dilations, pads = window(node, list(x.shape[2:]), list(w.shape[2:]))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.get(w.dim() - 2)
    if convolve is None or not w.numel():
        return None
    group = node.attributes.get_int("group", 1)
    return convolve(pad(x, pads, 0.0), w, b, strides, 0, dilations, group)


def transposed_convolution(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor | None:
    """The whole result, cut to what the pads leave; None where torch has no such form."""
    import torch.nn.functional as F

    rank = w.dim() - 2
    convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}.get(rank)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    extra = list(node.attributes.get_ints("output_padding", [0] * rank))
    if convolve is None or any(e >= max(s, 1) for e, s in zip(extra, strides, strict=True)):
        return None
    group = node.attributes.get_int("group", 1)
    whole = convolve(x, w, b, strides, 0, extra, group, dilations)
    pads = transposed_pads(node, list(x.shape[2:]), list(whole.shape[2:]), strides)
    if min(pads) < 0:
        return None
    for axis in range(rank):
        kept = whole.shape[2 + axis] - pads[axis] - pads[axis + rank]
        whole = whole.narrow(2 + axis, pads[axis], kept)
    return whole


def transposed_pads(
    node: ir.Node, size: list[int], whole: list[int], strides: list[int]
) -> list[int]:
    """The elements cut off the full result at begin and end, as the ONNX operator defines it.

    What ``output_shape`` has beyond the full result is zeros at the end, as with output_padding.

    Raises:
        ValueError: that is a stride or more, where engines refuse the model.
    """
    rank = len(size)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    target = list(node.attributes.get_ints("output_shape", []))[-rank:]
    if not target and auto.startswith("SAME"):
        target = [n * s for n, s in zip(size, strides, strict=True)]
    if not target:
        return list(node.attributes.get_ints("pads", [0] * 2 * rank))
    total = [w - t for w, t in zip(whole, target, strict=True)]
    if any(t <= -s for t, s in zip(total, strides, strict=True)):
        raise ValueError(f"output_shape {target} is larger than what it computes, {whole}")
    front = [max(t, 0) // 2 if auto == "SAME_UPPER" else (max(t, 0) + 1) // 2 for t in total]
    return front + [t - f for t, f in zip(total, front, strict=True)]


def max_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor | None:
    """None with indices, or for integers."""
    import torch
    import torch.nn.functional as F

    kernel = list(node.attributes.get_ints("kernel_shape", []))
    strides, dilations, pads = window(node, list(x.shape[2:]), kernel)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(x.dim() - 2)
    if pool is None or len(node.outputs) > 1 or not x.is_floating_point():
        return None
    if node.attributes.get_int("ceil_mode", False):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = _ceiled(list(x.shape[2:]), spans, strides, pads)
    result: torch.Tensor = pool(pad(x, pads, -torch.inf), kernel, strides, 0, dilations)
    return result


def _ceiled(size: list[int], spans: list[int], strides: list[int], pads: list[int]) -> list[int]:
    """Pads with as much more at the ends as ceil_mode takes in.

    A window that would start behind the data, in the padding at the end, is none.
    """
    rank, padded = len(size), list(pads)
    for axis, (n, span, stride) in enumerate(zip(size, spans, strides, strict=True)):
        data = n + pads[axis]
        whole = data + pads[axis + rank]
        windows = -(-(whole - span) // stride) + 1
        windows -= (windows - 1) * stride >= data
        padded[axis + rank] += max(0, (windows - 1) * stride + span - whole)
    return padded


def average_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor | None:
    """None with ceil_mode, dilations, uneven pads, or pads of more than half a window."""
    import torch.nn.functional as F

    kernel = list(node.attributes.get_ints("kernel_shape", []))
    strides, dilations, pads = window(node, list(x.shape[2:]), kernel)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(x.dim() - 2)
    if pool is None or node.attributes.get_int("ceil_mode", False):
        return None
    rank = len(kernel)
    if any(d != 1 for d in dilations) or pads[:rank] != pads[rank:]:
        return None
    if any(2 * p > k for p, k in zip(pads, kernel, strict=False)):
        return None  # torch wants half a window of data at least
    include = bool(node.attributes.get_int("count_include_pad", False))
    result: torch.Tensor = pool(x, kernel, strides, pads[:rank], False, include)
    return result


TORCH: dict[str, TorchKernel] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "MaxPool": max_pool,
}
