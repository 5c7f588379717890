"""compressed-tensors: weights as the values of their non-zeros and a bit for every place.

Versions 0.5 to 0.12 of Neural Magic's library write ``L.weight`` in the formats ``sparse-bitmask``
and ``sparse-24-bitmask`` as ``L.compressed``, ``L.bitmask`` and ``L.shape`` (and, of the first,
``L.row_offsets``, which the bits tell as well). A row of bits begins in a byte of its own, the
lowest bit first. Its formats of fewer bits keep other names, and are quantised: refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunedeploy.core.errors import UserError

BITMASK, SHAPE, VALUES = "bitmask", "shape", "compressed"
PARTS = (BITMASK, SHAPE, VALUES, "row_offsets")
# Of weights of fewer bits; the inverse is what DeepSeek's block-wise float8 has.
PACKED, SCALES = "weight_packed", ("weight_scale", "weight_scale_inv")
PLAIN = (
    "load it with transformers and CompressedTensorsConfig(run_compressed=False), and save the"
    " dense weights"
)
MAX_ELEMENTS = 1 << 29  # of one weight


def decompress(tensors: dict[str, Any]) -> str | None:
    """Put ``L.weight`` in the place of its parts; what was done, for people.

    Raises:
        UserError: parts that do not go together, or quantised weights; the message names them.
    """
    for name in tensors:
        if _is_quantised(name, tensors):
            raise UserError(f"{name} belongs to weights quantised by compressed-tensors: {PLAIN}")
    prefixes = [
        name.removesuffix(BITMASK)
        for name in tensors
        if name.rpartition(".")[2] == BITMASK and f"{name.removesuffix(BITMASK)}{VALUES}" in tensors
    ]
    for prefix in prefixes:
        tensors[f"{prefix}weight"] = _dense(prefix, tensors)
        for part in PARTS:
            tensors.pop(f"{prefix}{part}", None)
    return f"{len(prefixes)} weights of bitmasks (compressed-tensors)" if prefixes else None


def _is_quantised(name: str, tensors: Mapping[str, Any]) -> bool:
    layer, _, last = name.rpartition(".")
    dot = f"{layer}." if layer else ""
    # Of a sparse and quantised layer the values alone are there: the weight is yet to be made.
    weight = tensors.get(f"{dot}weight", tensors.get(f"{dot}{VALUES}"))
    narrow = isinstance(weight, Tensor) and weight.dtype.itemsize == 1
    return last == PACKED or (last in SCALES and narrow)


def _dense(prefix: str, tensors: Mapping[str, Any]) -> Tensor:
    bits, values = tensors[f"{prefix}{BITMASK}"], tensors[f"{prefix}{VALUES}"]
    size = tensors.get(f"{prefix}{SHAPE}")
    is_whole = isinstance(values, Tensor) and isinstance(size, Tensor)
    if size is None or not is_whole or not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        raise UserError(f"{prefix}{BITMASK} has no shape beside it: the checkpoint is incomplete")
    shape = [int(length) for length in size.flatten()]
    rows, bytes_a_row = math.prod(shape[:-1]), -(-shape[-1] // 8) if shape else 0
    fits = min(shape, default=0) > 0 and bits.numel() == rows * bytes_a_row
    if not fits or math.prod(shape) > MAX_ELEMENTS:
        raise UserError(f"{prefix}{BITMASK} does not have the bits of a weight of shape {shape}")
    places = torch.arange(8, dtype=torch.uint8)
    mask = (bits.reshape(rows, bytes_a_row, 1) >> places) & 1
    mask = mask.reshape(rows, -1)[:, : shape[-1]].bool()
    if int(mask.sum()) != values.numel():
        raise UserError(
            f"{prefix}{VALUES} has {values.numel():,} values for {int(mask.sum()):,} bits: the"
            " checkpoint is damaged, fetch it again"
        )
    dense = torch.zeros(rows, shape[-1], dtype=values.dtype)
    dense[mask] = values.flatten()
    return dense.reshape(shape)
