"""Reads protobuf's wire format of an ONNX file: the files it refers to, without its weights.

Reading a model with protobuf makes all of it resident. To hash a model or to open an engine takes
only the names of the files that hold its weights, and those are a few bytes between payloads that
are skipped here (Protocol Buffers documentation, "Encoding"; onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 100  # of nested messages: protobuf's own limit

# Which fields of which message lead to tensors; numbers are those of onnx.proto.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of TensorProto
KEY, VALUE = 1, 2  # of StringStringEntryProto
EXTERNAL = 1  # of TensorProto.DataLocation

Buffer = mmap.mmap | bytes


def locations(path: Path) -> list[tuple[str, bool]]:
    """The files that tensors of the ONNX file at ``path`` refer to, each as it is written there.

    Args:
        path: a binary ONNX file.

    Returns:
        Every location, with whether its tensor says that its data are there: some writers leave
        the location behind when they bring the data back.

    Raises:
        ValueError: the file is not in protobuf's wire format, or is nested too deep.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return list(_of_message(data, 0, len(data), "Model", 0))


def _of_message(
    data: Buffer, begin: int, end: int, kind: str, depth: int
) -> Iterator[tuple[str, bool]]:
    if depth > MAX_DEPTH:
        raise ValueError("its messages are nested too deep")
    if kind == "Tensor":
        yield from _of_tensor(data, begin, end)
        return
    inner = MESSAGES[kind]
    for field, wire, first, last in _fields(data, begin, end):
        if wire == BYTES and field in inner:
            yield from _of_message(data, first, last, inner[field], depth + 1)


def _of_tensor(data: Buffer, begin: int, end: int) -> Iterator[tuple[str, bool]]:
    external, locations = False, []
    for field, wire, first, last in _fields(data, begin, end):
        if field == DATA_LOCATION and wire == VARINT:
            external = _varint(data, first, last)[0] == EXTERNAL
        elif field == EXTERNAL_DATA and wire == BYTES:
            entry = {f: data[a:b] for f, w, a, b in _fields(data, first, last) if w == BYTES}
            if entry.get(KEY) == b"location":
                locations.append(entry.get(VALUE, b"").decode("utf-8", "surrogateescape"))
    yield from ((location, external) for location in locations)


def _fields(data: Buffer, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, and where the value begins and ends, of every field of a message."""
    at = begin
    while at < end:
        tag, at = _varint(data, at, end)
        field, wire = tag >> 3, tag & 7
        first = at
        if wire == VARINT:
            _, at = _varint(data, at, end)
        elif wire == BYTES:
            length, first = _varint(data, at, end)
            at = first + length
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        if at > end:
            raise ValueError("it is cut short")
        yield field, wire, first, at


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """A base-128 number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it has a number of more than ten bytes")
