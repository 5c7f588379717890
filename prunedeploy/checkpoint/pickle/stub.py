"""Stubs: objects that replace those of a pickle that are not plain data; they run nothing."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch

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


class Fixed:
    """What a pickle can hold and not change: its opcode BUILD would set any slot."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("what is stored of a tensor is not to be changed")


@dataclass(frozen=True)
class Dtype(Fixed):
    """A dtype of torch by its name, and the bytes of an element."""

    __slots__ = ("itemsize", "name")
    name: str
    itemsize: int


class Bytes(Fixed):
    """The bytes of one storage, of which torch's is made once, so that tensors go on sharing it."""

    __slots__ = ("data", "made")

    def __init__(self, data: bytearray | memoryview) -> None:
        self.data = data
        self.made: torch.UntypedStorage | None = None


class Storage(Fixed):
    """Raw bytes of tensors and the dtype to read them in."""

    __slots__ = ("bytes", "dtype")

    def __init__(self, data: Bytes, dtype: Dtype) -> None:
        self.bytes, self.dtype = data, dtype


class StorageType(Fixed):
    """The class of a storage, reduced to its dtype."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype


class StoredTensor(Fixed):
    """A tensor before torch makes it: what it shows of which storage, and what else it was given.

    Its bounds are those of ``rebuild.view``, which checks them. ``attributes`` are those that
    somebody gave it under names that the file chose.
    """

    __slots__ = ("attributes", "made", "offset", "size", "storage", "stride")

    def __init__(
        self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]
    ) -> None:
        self.storage, self.offset = storage, offset
        self.size, self.stride = tuple(size), tuple(stride)
        self.attributes: Any = None
        self.made: torch.Tensor | None = None


class SparseTensor:
    """A sparse tensor whose parts may not be read yet: legacy files have all data at their end."""

    __slots__ = ("data", "layout")

    def __init__(self, layout: Any, data: Any) -> None:
        self.layout, self.data = text(layout), data


class NumpyArray:
    """A pickled numpy array before it is decoded; numpy itself never sees the pickle."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray[Any, Any] | None:
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


def _decode(dtype: Any, data: Any, shape: Any, order: Any) -> np.ndarray[Any, Any] | None:
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
    return array.astype(array.dtype.newbyteorder("="), order="C")


def text(value: Any) -> str:
    """A string that Python 2 may have written as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
