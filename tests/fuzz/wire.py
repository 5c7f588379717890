"""Protocol buffers without their schema: fields by number, read and written again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
NUMBERS = (
    *(0, 1, 2, 3, 5, 7, 11, 13, 16, 17, 21, 22, 127, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63),
    *(2**64 - 2, 2**64 - 1),
)
NAMES = (
    *(b"", b"\0", b"\xff\xfe", b"\x1b[31m", b"../x", b"Conv", b"Relu", b"If", b"Loop", b"Gemm"),
    *(b"Reshape", b"Softmax", b"BatchNormalization", b"LSTM", b"Cast", b"Constant", b"Expand"),
    *(b"ConstantOfShape", b"Tile", b"Pad", b"Resize", b"Range", b"ai.onnx.ml", b"com.microsoft"),
    b"x" * 3000,
)


@dataclass
class Field:
    """One field; the value of a number of fixed size is its bytes."""

    number: int
    kind: int
    value: int | bytes


def parse(data: bytes) -> list[Field]:
    """The fields of a message.

    Raises:
        ValueError, IndexError: it is none.
    """
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            fields.append(Field(number, kind, value))
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(kind)
        if kind == BYTES:
            length, at = _varint(data, at)
        if length is None or not number or at + length > len(data):
            raise ValueError("not a message")
        fields.append(Field(number, kind, data[at : at + length]))
        at += length
    return fields


def encode(fields: list[Field]) -> bytes:
    """The message of these fields."""
    parts = []
    for field in fields:
        parts.append(_number(field.number << 3 | field.kind))
        if isinstance(field.value, int):
            parts.append(_number(field.value))
        else:
            parts += [_number(len(field.value))] if field.kind == BYTES else []
            parts.append(field.value)
    return b"".join(parts)


def changed(data: bytes, donor: bytes, random: Random) -> bytes:
    """One field gone, doubled, moved, taken from ``donor``, or of another value, at any depth."""
    fields = parse(data)
    at = random.randrange(len(fields))
    field = fields[at]
    inner = _message(field)
    if inner and random.random() < 0.85:
        other = next((f.value for f in parse(donor) if f.number == field.number), b"")
        try:
            field.value = changed(field.value, other if isinstance(other, bytes) else b"", random)  # type: ignore[arg-type]
        except (ValueError, IndexError):
            return encode(fields)
        return encode(fields)
    kind = random.randrange(6)
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields[at:at] = [field] * random.choice((1, 1, 2, 40))
    elif kind == 2:
        fields.insert(random.randrange(len(fields)), fields.pop(at))
    elif kind == 3 and donor:
        fields[at] = random.choice(parse(donor))
    elif isinstance(field.value, int):
        field.value = random.choice((*NUMBERS, (field.value + random.choice((-1, 1))) % 2**64))
    elif field.kind == BYTES and len(field.value) < 60:
        same = [f.value for f in fields if f.number == field.number]
        field.value = random.choice((*NAMES, *same, *same))  # type: ignore[arg-type]
    else:
        length = len(field.value)
        begin = random.randrange(length or 1)
        odd = random.choice((b"\0\0\xc0\x7f", b"\xff" * 4, b"\0" * 4, b"\0\0\x80\x7f"))
        field.value = (field.value[:begin] + odd + field.value[begin + 4 :])[:length]
    return encode(fields)


def _message(field: Field) -> bool:
    if field.kind != BYTES or not isinstance(field.value, bytes) or len(field.value) < 2:
        return False
    try:
        return bool(parse(field.value))
    except (ValueError, IndexError):
        return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value % 2**64, at
        if shift > 63:
            raise ValueError("not a number")


def _number(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)
