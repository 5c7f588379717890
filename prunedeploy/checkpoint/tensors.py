"""Tensors of torch, from what the readers recorded.

Reading a file needs no torch, whose import takes longer than most files do: what is damaged or
hostile in a way that its reader sees is refused before. The first weight asked for brings it in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunedeploy.checkpoint import survey
from prunedeploy.checkpoint.pickle.packed import PackedTensor
from prunedeploy.checkpoint.pickle.stub import NumpyArray, SparseTensor, StoredTensor
from prunedeploy.checkpoint.unpacked import dense
from prunedeploy.core.budget import EXPANDED
from prunedeploy.core.errors import UserError

SPARSE_LAYOUTS = {
    "torch.sparse_csr": torch.sparse_csr,
    "torch.sparse_csc": torch.sparse_csc,
    "torch.sparse_bsr": torch.sparse_bsr,
    "torch.sparse_bsc": torch.sparse_bsc,
}

NUMBERS = frozenset(
    value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and survey.NUMBERS.fullmatch(name)
)


def as_tensor(value: Any) -> Any:
    """A tensor for what stands for one until all is read; anything else as it is.

    The same for the same ``StoredTensor``, however often it is asked for.

    Raises:
        UserError: a sparse tensor that is too large to be a weight.
        Exception: any, for parts that do not go together; the caller words it.
    """
    if isinstance(value, StoredTensor):
        if value.made is None:
            value.made = _of_storage(value)
        return value.made
    if isinstance(value, SparseTensor):
        return _sparse(value)
    if isinstance(value, PackedTensor):
        tensor = dense(value, {name: as_tensor(part) for name, part in value.fields().items()})
        return value if tensor is None else tensor
    array = value.array() if isinstance(value, NumpyArray) else value
    if isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return torch.from_numpy(native.reshape(array.shape))
    return array.detach() if isinstance(array, Tensor) else array


def _of_storage(stored: StoredTensor) -> Tensor:
    data = stored.storage.bytes
    if data.made is None:  # one that does not grow, as torch's own empty ones do
        whole = torch.frombuffer(data.data or bytearray(1), dtype=torch.uint8).untyped_storage()
        data.made = whole[: len(data.data)]
    empty = torch.empty(0, dtype=getattr(torch, stored.storage.dtype.name))
    return empty.set_(data.made, stored.offset, stored.size, stored.stride)


def _sparse(stored: SparseTensor) -> Tensor:
    """The tensor, its indices checked against its size."""
    coo = stored.layout == "torch.sparse_coo"
    *parts, size = stored.data[: 3 if coo else 4]
    if math.prod(size) > EXPANDED:
        raise UserError(f"holds a sparse tensor of size {tuple(size)}, too large to be a weight")
    *indices, values = map(as_tensor, parts)
    if coo:
        (at,) = indices
        return torch.sparse_coo_tensor(at, values, tuple(size), check_invariants=True)
    make: Callable[..., Tensor] = torch.sparse_compressed_tensor
    layout = SPARSE_LAYOUTS[stored.layout]
    return make(*indices, values, tuple(size), layout=layout, check_invariants=True)
