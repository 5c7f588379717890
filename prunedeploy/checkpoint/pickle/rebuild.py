"""The functions that a pickle may call, and the names under which it knows them.

All are ours: none of torch's or numpy's own rebuilding functions ever sees a pickle's arguments.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from prunedeploy.checkpoint.pickle.packed import PackedTensor, packed_tensor
from prunedeploy.checkpoint.pickle.stub import (
    Dtype,
    NumpyArray,
    NumpyType,
    Quantised,
    SparseTensor,
    Storage,
    StoredTensor,
    Stub,
)
from prunedeploy.core.budget import EXPANDED, Budget


class Function:
    """A function of ours that a global resolves to; the pickle cannot change it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a function of ours is not to be changed")

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self._function(*args)


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    return view(storage, offset, tuple(size), tuple(stride))


def view(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> StoredTensor:
    """A tensor of what a storage holds, and of nothing else: torch lets some storages grow, by
    memory of whatever content, where a tensor reaches beyond them.

    Raises:
        pickle.UnpicklingError: it reaches beyond the storage.
        OverBudgetError: it shows so few bytes as so many elements that they are no weights.
    """
    stored = len(storage.bytes.data)
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    have = stored // storage.dtype.itemsize
    if min((offset, *size, *stride)) < 0 or (elements and last >= have) or offset > have:
        raise pickle.UnpicklingError("a tensor larger than its storage")
    Budget(stored).check("a tensor", elements, max(EXPANDED, stored))
    return StoredTensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Storage, offset: int, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> StoredTensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype):
        raise pickle.UnpicklingError("a tensor without storage")
    return _tensor(Storage(storage.bytes, dtype), offset, size, stride)


def _numpy_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> NumpyArray:
    array = NumpyArray()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError("an unknown encoding")
    return text.encode(encoding)


def _first(value: Any, *_: Any) -> Any:
    return value


def _from_type(function: Any, _: Any, args: Any, state: Any = None, *__: Any) -> Any:
    """A tensor with attributes of its own, or of a subclass: a plain tensor with them."""
    if not isinstance(function, Function | type(Stub)):
        raise pickle.UnpicklingError("a tensor that is made by an unknown function")
    return _with_attributes(function(*args), None, None, state)


def _with_attributes(value: Any, _: Any, __: Any, state: Any = None, *___: Any) -> Any:
    """The tensor with its attributes: no name of theirs becomes one of its own."""
    if isinstance(value, PackedTensor):
        value.state = state
    elif isinstance(value, StoredTensor):
        value = StoredTensor(value.storage, value.offset, value.size, value.stride)
        value.attributes = state[0] if isinstance(state, tuple) and state else state
    return value


def _ordered(items: Any = (), *_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(_plain(items))


def _set(items: Any = ()) -> set[Any]:
    return set(_plain(items))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_plain(items))


def _plain(items: Any) -> Any:
    """Refuse any container but plain ones: a view of a tensor may be far larger than the file."""
    if not isinstance(items, list | tuple | dict | set | frozenset):
        raise pickle.UnpicklingError("a container of something else")
    return items


def _default(*_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "collections.defaultdict": _default,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _frozenset,
    "_codecs.encode": _encode,
    "torch.Size": _first,
    "torch.serialization._get_layout": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _with_attributes,
    "torch._utils._rebuild_sparse_tensor": SparseTensor,
    "torch._utils._rebuild_qtensor": Quantised,
    "torch._utils._rebuild_wrapper_subclass": packed_tensor,
    "torch._utils._rebuild_xla_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "numpy.core.multiarray._reconstruct": NumpyArray,
    "numpy._core.multiarray._reconstruct": NumpyArray,
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
    "numpy.dtype": NumpyType,
}

# The dtypes of torch by the bytes of an element.
SIZES = {
    16: "complex128 cdouble",
    8: "float64 double int64 long uint64 complex64 cfloat",
    4: "float32 float int32 int uint32 complex32 chalf qint32",
    2: "float16 half bfloat16 int16 short uint16 bits16",
    1: "bool uint8 int8 quint8 qint8 quint4x2 quint2x4 bits8 bits1x8 bits2x4 bits4x2"
    " float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2"
    " uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7",
}

DTYPES: Mapping[str, Dtype] = {
    f"torch.{name}": Dtype(name, size) for size, names in SIZES.items() for name in names.split()
}

STORAGES: Mapping[str, Dtype] = {
    f"{module}.{name}Storage": DTYPES[f"torch.{dtype}"]
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexDouble": "complex128",
        "ComplexFloat": "complex64",
        "Untyped": "uint8",
        "QUInt8": "quint8",
        "QInt8": "qint8",
        "QInt32": "qint32",
    }.items()
}
