"""The types of the V2 protocol as NumPy's, and tensors as it describes them."""

from __future__ import annotations

from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec

_BITS = (8, 16, 32, 64)
DTYPES = {
    "BOOL": "bool",
    **{f"{kind.upper()}{bits}": f"{kind}{bits}" for kind in ("uint", "int") for bits in _BITS},
    **{f"FP{bits}": f"float{bits}" for bits in _BITS[1:]},
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors


def metadata(spec: TensorSpec) -> dict[str, Any]:
    """``spec`` as the protocol describes a tensor; open sizes are -1.

    Raises:
        UserError: the protocol has no such type.
    """
    if spec.dtype not in DATATYPES:
        raise UserError(f"cannot serve {spec.name!r}: the V2 protocol has no type {spec.dtype}")
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
