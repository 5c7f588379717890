"""Changes files as damage and malice do: byte by byte, and along the structure of their format.

A case is the files of one input by name. ``changed`` depends on the case and the random numbers
alone, so that a case is known by its target, seed and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from formats import structured

Case = dict[str, bytes]
LENGTHS = (1, 2, 4, 8)
VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -2)


def changed(case: Case, others: Sequence[Case], random: Random) -> Case:
    """``case`` after one to four changes; ``others`` are what parts may be taken from."""
    result = dict(case)
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        name = random.choice(sorted(result))
        donor = random.choice(others).get(name, b"") if others else b""
        result[name] = edited(result[name], name, donor, random)
    return result


def edited(data: bytes, name: str, donor: bytes, random: Random) -> bytes:
    """One change of a file: in three of four cases along its structure, where it has one."""
    if random.random() < 0.75:
        result = structured(data, name, donor, random, edited)
        if result is not None:
            return result
    return random.choice((_flip, _flip, _cut, _value, _remove, _repeat, _splice))(
        data, donor, random
    )


def _flip(data: bytes, donor: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if data else 0):
        # headers are at both ends
        at = random.choice((random.randrange(len(data)), random.randrange(min(len(data), 128))))
        changed[random.choice((at, at, -1 - at))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(data: bytes, donor: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _value(data: bytes, donor: bytes, random: Random) -> bytes:
    """A number that lengths and counts do not expect."""
    length = random.choice(LENGTHS)
    value = random.choice(VALUES) & (256**length - 1)
    at = random.randrange(len(data) + 1)
    return (
        data[:at] + value.to_bytes(length, random.choice(("little", "big"))) + data[at + length :]
    )


def _remove(data: bytes, donor: bytes, random: Random) -> bytes:
    begin, end = _range(data, random)
    return data[:begin] + data[end:]


def _repeat(data: bytes, donor: bytes, random: Random) -> bytes:
    begin, end = _range(data, random)
    return data[:end] + data[begin:end] * random.choice((1, 1, 3, 50)) + data[end:]


def _splice(data: bytes, donor: bytes, random: Random) -> bytes:
    begin, end = _range(data, random)
    first, last = _range(donor or data, random)
    return data[:begin] + (donor or data)[first:last] + data[end:]


def _range(data: bytes, random: Random) -> tuple[int, int]:
    begin = random.randrange(len(data) + 1)
    return begin, min(len(data), begin + random.choice((1, 4, 16, 256, 4096)))
