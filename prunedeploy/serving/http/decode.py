"""Requests of the V2 protocol as arrays: JSON, and tensors as bytes behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.serving.http.datatypes import DTYPES, HEADER_LENGTH
from prunedeploy.serving.http.refusal import Refusal

T = TypeVar("T")

# Their answers would not be what was asked for, so that ignoring them is no way.
_UNSUPPORTED = ("classification", "shared_memory_region")

MAX_RANK = 32  # axes that an array of any NumPy may have


@dataclass(frozen=True)
class InferRequest:
    """A request as it was sent: shapes are its own, not yet compared with the model's.

    ``outputs`` are the names of those that are wanted, ``binary`` those of them wanted as bytes.
    """

    id: str | None
    feeds: dict[str, Array]
    outputs: tuple[str, ...]
    binary: frozenset[str]


def decode(body: bytes, json_length: int | None, outputs: Sequence[TensorSpec]) -> InferRequest:
    """Read the body of a request.

    Args:
        body: JSON, followed by the bytes of binary tensors, if any.
        json_length: how much of it is JSON; None for all.
        outputs: those of the model.

    Raises:
        Refusal: 400, the body is not what the protocol asks for.
    """
    document, feeds = tensors(body, json_length, "inputs")
    names, binary = _wanted(document, [spec.name for spec in outputs])
    return InferRequest(_field(document, "id", str, None), feeds, names, binary)


def tensors(
    body: bytes, json_length: int | None, key: str
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The JSON of a request or an answer, and the tensors in its array ``key`` by name.

    Raises:
        Refusal: 400, as ``decode``.
    """
    if json_length is not None and json_length > len(body):
        raise Refusal(400, f"{HEADER_LENGTH} is {json_length}, the body has {len(body)} bytes")
    end = len(body) if json_length is None else json_length
    document = _document(body[:end])
    reader = _Bytes(body, end)
    items = _items(document, key)
    arrays = {_name(item): _array(item, reader) for item in items}
    if len(arrays) < len(items):
        raise Refusal(400, f"a tensor is twice in {key!r}")
    if rest := len(body) - reader.begin:
        raise Refusal(400, f"{rest} bytes behind the JSON belong to no tensor")
    return document, arrays


class _Bytes:
    """The binary part of a body, which tensors take one after the other."""

    def __init__(self, body: bytes, begin: int) -> None:
        self.body, self.begin = body, begin

    def take(self, dtype: np.dtype[np.generic], size: int, where: str) -> Array:
        if size % dtype.itemsize or not 0 <= size <= len(self.body) - self.begin:
            left = len(self.body) - self.begin
            raise Refusal(400, f"{where} says {size} bytes, and {left} are left of the body")
        array = np.frombuffer(self.body, dtype, size // dtype.itemsize, self.begin)
        self.begin += size
        return array


def _document(text: bytes) -> dict[str, Any]:
    import orjson

    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refusal(400, "the body is no JSON object")
    return document


def _field(item: dict[str, Any], key: str, kind: type[T], default: T | None) -> T | None:
    value = item.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Refusal(400, f"{key!r} should be of JSON's {_JSON[kind]}s")
    return value


_JSON = {str: "string", list: "array", dict: "object", bool: "boolean"}


def _items(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = _field(document, key, list, None) or []
    if not all(isinstance(item, dict) for item in items):
        raise Refusal(400, f"{key!r} should be an array of objects")
    return items


def _name(tensor: dict[str, Any]) -> str:
    name = _field(tensor, "name", str, None)
    if name is None:
        raise Refusal(400, "a tensor has no 'name'")
    return name


def _array(tensor: dict[str, Any], reader: _Bytes) -> Array:
    """A tensor's values, in the shape that it says."""
    where = f"tensor {_name(tensor)!r}"
    datatype = _field(tensor, "datatype", str, "")
    if datatype not in DTYPES:
        raise Refusal(400, f"{where} has datatype {datatype!r}: choose from {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    shape = _field(tensor, "shape", list, None)
    if shape is None or not all(type(size) is int and size >= 0 for size in shape):
        raise Refusal(400, f"{where} has no 'shape' of numbers from 0")
    if len(shape) > MAX_RANK:
        raise Refusal(400, f"{where} has {len(shape)} axes, {MAX_RANK} are the most")
    parameters = _parameters(tensor, where)
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if "data" in tensor or type(size) is not int:
            raise Refusal(400, f"{where} needs either 'data' or the number 'binary_data_size'")
        values = reader.take(dtype, size, where)
        # any other byte would be a truth value that is neither True nor False to those who compute
        if dtype == np.bool_ and np.any(values.view(np.uint8) > 1):
            raise Refusal(400, f"{where} of BOOL has bytes that are neither 0 nor 1")
    else:
        values = _values(tensor, dtype, where)
    if values.size != math.prod(shape):
        needed = math.prod(shape)
        raise Refusal(
            400, f"{where} of shape {shape} should have {needed} values, found {values.size}"
        )
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError):  # next to a 0 a size may be larger than any array's
        raise Refusal(400, f"{where} of shape {shape} is too large") from None


def _parameters(item: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = _field(item, "parameters", dict, None) or {}
    for key in _UNSUPPORTED:
        if key in parameters:
            raise Refusal(400, f"{where} asks for {key!r}, which this server does not have")
    return parameters


def _values(tensor: dict[str, Any], dtype: np.dtype[np.generic], where: str) -> Array:
    """The numbers of a JSON array, nested or flat, none of which the type changes."""
    data = _field(tensor, "data", list, None)
    if data is None:
        raise Refusal(400, f"{where} has no 'data'")
    try:
        given = np.array(data) if data else np.empty(0, dtype)
    except (ValueError, OverflowError):
        raise Refusal(400, f"{where} has arrays of different lengths in 'data'") from None
    if given.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]:
        raise Refusal(400, f"{where} has values in 'data' that are no {dtype.name}")
    with np.errstate(over="ignore"):
        values = given.astype(dtype)
    kept = np.isfinite(values) if dtype.kind == "f" else values == given
    if not np.all(kept):
        raise Refusal(400, f"{where} has numbers in 'data' that do not fit into {dtype.name}")
    return values


def _wanted(document: dict[str, Any], known: list[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The outputs that are asked for, all where none is, and those asked for as bytes."""
    every = _field(_parameters(document, "the request"), "binary_data_output", bool, False)
    asked = _items(document, "outputs") or [{"name": name} for name in known]
    binary = []
    for item in asked:
        name = _name(item)
        if name not in known:
            raise Refusal(400, f"no output is called {name!r}: the model gives {', '.join(known)}")
        if _field(_parameters(item, f"output {name!r}"), "binary_data", bool, every):
            binary.append(name)
    return tuple(_name(item) for item in asked), frozenset(binary)
