"""A processor for programs (``runtimes/sparse/kernels/jit.py``): it reads instructions byte by
byte.

It knows those of ``NAMES`` and a few others; what else it meets is an error, and so is an operand
where a program has no business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from prunedeploy.core.records import Array

NAMES = {
    (1, 0, 0x10): "load",
    (1, 0, 0x11): "store",
    (1, 0, 0x58): "add",
    (1, 0, 0x5D): "least",
    (1, 0, 0x5F): "most",
    (1, 1, 0xEF): "clear",
    (2, 1, 0x18): "spread",
    (2, 1, 0xB8): "multiply",
    (2, 1, 0x7C): "number",
}


@dataclass
class Memory:
    """What a program may touch: float32 but for ``code``.

    ``pointer`` is where the second argument points to, in bytes of ``code``; ``weights`` the bytes
    of it that are weights; ``pixels`` of a vector that may be stored in the result ``y``.
    """

    code: Array
    tile: Array
    sums: Array
    bias: Array
    pointer: int
    weights: range
    y: Array
    residual: Array
    pixels: int = 16
    used: list[int] = field(default_factory=list)  # places of weights, in order
    fetched: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Evex:
    """An instruction with the EVEX prefix, taken apart (Intel's manual, volume 2, 2.7.1)."""

    name: str
    lanes: int
    register: int
    between: int
    broadcast: bool
    masked: bool
    base: int | None  # None: the last operand is a register
    last: int
    place: int
    length: int


def _evex(code: Array, at: int) -> _Evex:
    p0, p1, p2, opcode, modrm = (int(x) for x in code[at + 1 : at + 6])
    assert p0 & 8 == 0
    assert p1 & 0x84 == 4  # W0
    assert p2 & 0x86 == 0  # k1 or no mask
    name = NAMES[p0 & 7, p1 & 3, opcode]
    lanes = {1: 8, 2: 16}[p2 >> 5]
    register = modrm >> 3 & 7 | (~p0 >> 7 & 1) << 3 | (~p0 >> 4 & 1) << 4
    between = (~p1 >> 3 & 15) | (~p2 >> 3 & 1) << 4
    mode, low = modrm >> 6, modrm & 7
    broadcast, masked = bool(p2 & 16), bool(p2 & 1)
    if mode == 3:
        last = low | (~p0 >> 5 & 1) << 3 | (~p0 >> 6 & 1) << 4
        return _Evex(name, lanes, register, between, broadcast, masked, None, last, 0, 6)
    assert p0 & 0x40  # no index
    assert low != 4
    low |= (~p0 >> 5 & 1) << 3
    if mode == 1:
        unit = 4 if broadcast or name == "spread" else 4 * lanes
        place = int(code[at + 6].astype(np.int8)) * unit
        return _Evex(name, lanes, register, between, broadcast, masked, low, 0, place, 7)
    assert mode == 2
    (place,) = struct.unpack("<i", code[at + 6 : at + 10].tobytes())
    return _Evex(name, lanes, register, between, broadcast, masked, low, 0, place, 10)


def run(memory: Memory, start: int) -> int:
    """The program at ``start``, to its return: how many bytes it is long."""
    registers = np.full((32, 16), np.nan, np.float32)
    at, pointer, masked = start, memory.pointer, False
    eax = None  # where the residual is, or a number
    while True:
        first = int(memory.code[at])
        if first == 0xC3:
            return at + 1 - start
        if first == 0x90:
            at += 1
        elif first == 0xC5:
            assert memory.code[at : at + 6].tobytes() == bytes.fromhex("c5f8904c2410")
            masked = True  # kmovw k1, [rsp + 16]
            at += 6
        elif first == 0xB8:  # mov eax, imm32
            eax = memory.code[at + 1 : at + 5].view(np.float32)[0]
            at += 5
        elif first == 0x48 and memory.code[at + 1] == 0x8B:
            assert memory.code[at + 2 : at + 5].tobytes() == b"\x44\x24\x08"  # mov rax, [rsp + 8]
            eax = "residual"
            at += 5
        elif first == 0x48:
            assert memory.code[at + 1 : at + 3].tobytes() == b"\x81\xc6"  # add rsi, imm32
            pointer += struct.unpack("<i", memory.code[at + 3 : at + 7].tobytes())[0]
            at += 7
        elif first == 0x41:
            assert memory.code[at + 1 : at + 4].tobytes() == b"\x0f\x18\x90"  # prefetcht1 [r8 + n]
            memory.fetched += struct.unpack("<i", memory.code[at + 4 : at + 8].tobytes())
            at += 8
        else:
            assert first == 0x62, hex(first)
            found = _evex(memory.code, at)
            assert found.masked == (found.name == "store" and found.base == 9)
            assert masked or not found.masked
            _execute(memory, registers, found, pointer, eax)
            at += found.length


def _floats(array: Array, place: int, lanes: int) -> Array:
    assert place % 4 == 0
    assert 0 <= place <= 4 * (array.size - lanes)
    return array[place // 4 : place // 4 + lanes]


def _execute(
    memory: Memory, registers: Array, it: _Evex, pointer: int, eax: np.float32 | str | None
) -> None:
    to = registers[it.register]
    match it.name, it.base:
        case "clear", None:
            assert it.register == it.between == it.last
            to[:] = 0
        case "spread", 1:  # RCX
            to[: it.lanes] = _floats(memory.bias, it.place, 1)
        case "load", 7:  # RDI
            to[: it.lanes] = _floats(memory.tile, it.place, it.lanes)
        case "multiply", 6:  # RSI
            assert it.broadcast
            place = pointer + it.place
            assert place in memory.weights
            memory.used.append(place)
            weight = memory.code[place : place + 4].view(np.float32)
            to[: it.lanes] += weight * registers[it.between, : it.lanes]
        case "add", 2:  # RDX
            assert it.register == it.between
            to[: it.lanes] += _floats(memory.sums, it.place, it.lanes)
        case "store", 2:
            _floats(memory.sums, it.place, it.lanes)[:] = to[: it.lanes]
        case "add", 0:  # RAX
            assert it.register == it.between
            assert eax == "residual"
            to[: it.lanes] += _floats(memory.residual, it.place, it.lanes)
        case "number", None:
            assert it.last == 0
            assert isinstance(eax, np.float32)
            to[: it.lanes] = eax
        case "most" | "least", None:
            assert it.register == it.last
            bound = np.minimum if it.name == "least" else np.maximum
            to[: it.lanes] = bound(to[: it.lanes], registers[it.between, : it.lanes])
        case "store", 9:  # R9
            count = min(it.lanes, memory.pixels)
            _floats(memory.y, it.place, count)[:] = to[:count]
        case _:
            raise AssertionError(it)
