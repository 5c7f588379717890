"""Tensors of classes of their own, which keep their numbers in parts: 2:4 packed, blocks.

torch.save writes such a tensor as its class, its size and its attributes. Where the parts say all,
as for ``SparseSemiStructuredTensorCUTLASS`` of torch and torchao and for torchao's
``BlockSparseTensor``, the dense weight is made of them, exactly, and no code of the class is run.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from prunedeploy.checkpoint.pickle.stub import (
    MAX_ELEMENTS,
    Quantised,
    SparseTensor,
    Stub,
)

Parts = Mapping[str, Any]


class PackedTensor(Quantised):
    """A tensor of another class: ``args`` begin with the class, its dtype and its size."""

    @property
    def kind(self) -> str:
        """The name of its class."""
        origin = getattr(self.args[0], "origin", "") if self.args else ""
        return origin.rpartition(".")[2] or "tensor of an unknown class"

    def dense(self) -> Tensor | None:
        """The plain tensor, or None where only its class can tell."""
        read = READERS.get(self.kind)
        if read is None:
            return None
        size = tuple(self.args[2])
        if len(size) != 2 or min(size) < 0 or math.prod(size) > MAX_ELEMENTS:
            raise pickle.UnpicklingError(f"a {self.kind} of size {size}")
        tensor = read(self.fields(), size)
        if tensor is not None and tuple(tensor.shape) != size:
            raise pickle.UnpicklingError(f"a {self.kind} whose parts make another size")
        return tensor


def packed_tensor(kind: Any, *args: Any) -> PackedTensor:
    """What ``torch._utils._rebuild_wrapper_subclass`` is called with."""
    if not (isinstance(kind, type) and issubclass(kind, Stub)) or len(args) < 2:
        raise pickle.UnpicklingError("a tensor without a class")
    return PackedTensor(kind, *args)


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
    if not all(isinstance(part, Tensor) for part in (rows, columns, values)):
        return None
    blocks = SparseTensor("torch.sparse_bsr", (rows, columns, values, size))
    return blocks.tensor().to_dense()


READERS: Mapping[str, Callable[[Parts, tuple[int, ...]], Tensor | None]] = {
    "SparseSemiStructuredTensorCUTLASS": _two_four,
    "BlockSparseTensor": _blocks,
}
