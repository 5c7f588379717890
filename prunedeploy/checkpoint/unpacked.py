"""Plain tensors of those that keep their numbers in parts: 2:4 packed, blocks.

Where the parts say all, as for ``SparseSemiStructuredTensorCUTLASS`` of torch and torchao and for
torchao's ``BlockSparseTensor``, the dense weight is made of them, exactly.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunedeploy.checkpoint.pickle.packed import PackedTensor
from prunedeploy.core.budget import EXPANDED

Parts = Mapping[str, Any]


def dense(packed: PackedTensor, parts: Parts) -> Tensor | None:
    """The plain tensor, or None where only its class can tell.

    Args:
        packed: as the file has it.
        parts: its attributes, tensors among them.

    Raises:
        pickle.UnpicklingError: its size is no matrix's, or not that of its parts.
        Exception: any, for parts that do not go together; the caller words it.
    """
    read = READERS.get(packed.kind)
    if read is None:
        return None
    size = tuple(packed.args[2])
    if len(size) != 2 or min(size) < 0 or math.prod(size) > EXPANDED:
        raise pickle.UnpicklingError(f"a {packed.kind} of size {size}")
    tensor = read(parts, size)
    if tensor is not None and tuple(tensor.shape) != size:
        raise pickle.UnpicklingError(f"a {packed.kind} whose parts make another size")
    return tensor


def _two_four(parts: Parts, _: tuple[int, ...]) -> Tensor | None:
    """CUTLASS's layout, of the weight or, where that alone is kept, of its transpose.

    Metadata of more axes are in the order of a kernel's threads, which torch cannot undo either.
    """
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

    for suffix in ("", "_t"):
        packed, meta = parts.get(f"packed{suffix}"), parts.get(f"meta{suffix}")
        if isinstance(packed, Tensor) and isinstance(meta, Tensor) and meta.dim() == 2:
            dense: Tensor = sparse_semi_structured_to_dense_cutlass(packed, meta)  # type: ignore[no-untyped-call]
            return dense.t().contiguous() if suffix else dense
    return None


def _blocks(parts: Parts, size: tuple[int, ...]) -> Tensor | None:
    rows, columns, values = (
        parts.get(f"bsr_{name}") for name in ("crow_indices", "col_indices", "values")
    )
    if not (
        isinstance(rows, Tensor) and isinstance(columns, Tensor) and isinstance(values, Tensor)
    ):
        return None
    return torch.sparse_bsr_tensor(rows, columns, values, size, check_invariants=True).to_dense()


READERS: Mapping[str, Callable[[Parts, tuple[int, ...]], Tensor | None]] = {
    "SparseSemiStructuredTensorCUTLASS": _two_four,
    "BlockSparseTensor": _blocks,
}
