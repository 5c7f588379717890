"""Stubs: objects that replace those of a pickle that are not plain data; they run nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunedeploy.core.errors import UserError

# Expanded views may hold more elements than their storage; beyond this it is an attack or damage.
MAX_ELEMENTS = 1 << 29

SPARSE_LAYOUTS = {
    "torch.sparse_csr": torch.sparse_csr,
    "torch.sparse_csc": torch.sparse_csc,
    "torch.sparse_bsr": torch.sparse_bsr,
    "torch.sparse_bsc": torch.sparse_bsc,
}

# What torch computes with, or converts to what it does: not its bits, nor halves of bytes.
NUMBERS = frozenset(
    value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype)
    and re.fullmatch(r"bool|u?int(8|16|32|64)|b?float(8_\w+|16|32|64)|complex(64|128)", name)
)

# Where a tensor has what somebody gave it besides, under names that the file chose.
ATTRIBUTES = "attributes_of_the_file"
NUMPY_CODES = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])


class Stub:
    """Replaces an object of any class: it records its arguments and state, and runs nothing.

    ``Unpickler`` makes a subclass for each global, with the global's name as ``origin``.
    """

    origin: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]

    def __new__(cls, *args: Any, **_: Any) -> Stub:
        """Record the arguments."""
        self = object.__new__(cls)
        self.args, self.state, self.entries = args, None, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __call__(self, *_: Any, **__: Any) -> Stub:
        """Return the stub itself: the result of a call is one more unknown object."""
        return self

    def append(self, element: Any) -> None:
        """Record an element of a list-like object under its position."""
        self.entries[len(self.entries)] = element

    def extend(self, elements: Any) -> None:
        """Record several elements."""
        for element in elements if isinstance(elements, list | tuple) else ():
            self.append(element)

    def fields(self) -> dict[Any, Any]:
        """The object's attributes and, by their positions, what it was made from; of a mapping or a
        list its entries."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        plain = [part for part in parts if not isinstance(part, dict)]
        merged: dict[Any, Any] = {**dict(enumerate([*self.args, *plain])), **self.entries}
        for part in parts:
            if isinstance(part, dict):
                merged.update(part)
        return merged


class Quantised(Stub):
    """A tensor of integers with scales."""


class Storage:
    """Raw bytes of tensors and the dtype to read them in."""

    __slots__ = ("data", "dtype")

    def __init__(self, data: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype


class StorageType:
    """The class of a storage, reduced to its dtype."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class SparseTensor:
    """A sparse tensor whose parts may not be read yet: legacy files have all data at their end."""

    __slots__ = ("data", "layout")

    def __init__(self, layout: Any, data: Any) -> None:
        self.layout, self.data = text(layout), data

    def tensor(self) -> Tensor:
        """The tensor, its indices checked against its size."""
        coo = self.layout == "torch.sparse_coo"
        *indices, values, size = self.data[: 3 if coo else 4]
        if math.prod(size) > MAX_ELEMENTS:
            raise UserError(
                f"holds a sparse tensor of size {tuple(size)}, too large to be a weight"
            )
        if coo:
            (at,) = indices
            return torch.sparse_coo_tensor(at, values, tuple(size), check_invariants=True)
        make: Callable[..., Tensor] = torch.sparse_compressed_tensor
        layout = SPARSE_LAYOUTS[self.layout]
        return make(*indices, values, tuple(size), layout=layout, check_invariants=True)


class NumpyArray:
    """A pickled numpy array before it is decoded; numpy itself never sees the pickle."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The array, or None when it holds no plain numbers."""
        try:
            _, shape, dtype, fortran, data = self.state
            return _decode(dtype, data, shape, "F" if fortran else "C")
        except (TypeError, ValueError):
            return None

    def objects(self) -> list[Any]:
        """The elements of an array of objects; none of an array of numbers."""
        data = self.state[4] if isinstance(self.state, tuple) and len(self.state) == 5 else None
        return data if isinstance(data, list) else []


class NumpyType:
    """A pickled numpy dtype: its code, such as ``f4``, and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


def _decode(dtype: Any, data: Any, shape: Any, order: Any) -> Tensor | None:
    if not isinstance(dtype, NumpyType):
        return None
    code, endian = text(dtype.code), text(dtype.order)
    if code not in NUMPY_CODES or endian not in ("<", ">", "|", "="):
        return None
    if not isinstance(data, str | bytes | bytearray):
        return None
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    flat = np.frombuffer(raw, dtype=np.dtype(endian + code))
    array = flat.reshape(tuple(shape), order=order)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def text(value: Any) -> str:
    """A string that Python 2 may have written as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
