"""Instructions of AVX-512 as bytes, many of one kind at a time.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, section 2.7 (EVEX
prefix) and the pages of the instructions. Accumulators are in zmm0 to zmm30, the input in zmm31.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.runtimes.sparse.kernels.packing import Ints

INPUT = 31  # its register
TRAP, RETURN = 0xCC, 0xC3  # int3, which is between programs, and ret
WHOLE, HALF = 2, 1  # widths of vectors as the prefix says them: 512 bits, 256 bits
RAX, RDX, RSI, RDI, RCX = 0, 2, 6, 7, 1  # numbers of the registers that hold addresses
R9 = 9

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Instruction:
    """The fields of an instruction with the EVEX prefix, as the manual's pages give them.

    Args:
        map: map of opcodes: 1 for 0F, 2 for 0F38.
        prefix: the mandatory prefix: 0 for none, 1 for 66.
        opcode: the byte behind the prefix.
    """

    map: int
    prefix: int
    opcode: int


LOAD = Instruction(1, 0, 0x10)  # VMOVUPS zmm, m512
STORE = Instruction(1, 0, 0x11)  # VMOVUPS m512, zmm
ADD = Instruction(1, 0, 0x58)  # VADDPS
MIN = Instruction(1, 0, 0x5D)  # VMINPS
MAX = Instruction(1, 0, 0x5F)  # VMAXPS
CLEAR = Instruction(1, 1, 0xEF)  # VPXORD
BROADCAST = Instruction(2, 1, 0x18)  # VBROADCASTSS
MULTIPLY_ADD = Instruction(2, 1, 0xB8)  # VFMADD231PS
BROADCAST_GENERAL = Instruction(2, 1, 0x7C)  # VPBROADCASTD zmm, r32


def memory_operand(
    operation: Instruction,
    width: int,
    register: Ints | int,
    base: int,
    at: Ints,
    short: bool = False,
    masked: bool = False,
) -> Bytes:
    """Instructions of a vector register and the memory at ``base`` + ``at``.

    ``short``: the operand is one float, broadcast; ``at`` counts floats, -128 to 127.
    Else it is a vector, ``masked`` by k1 or whole, and ``at`` counts bytes. In a sum and a product
    a third operand is between the two: the input in the product, the register itself in the sum.
    """
    between = {MULTIPLY_ADD: INPUT, ADD: register}.get(operation)
    broadcast = short and operation is MULTIPLY_ADD
    register, at = np.broadcast_arrays(np.asarray(register), at)
    code = np.empty((at.size, 7 if short else 10), np.uint8)
    code[:, :4] = _prefix(operation, width, register, between, broadcast)
    code[:, 1] ^= 0x20 * (base >> 3)
    code[:, 3] |= masked
    code[:, 4] = operation.opcode
    code[:, 5] = (0x40 if short else 0x80) | (register & 7) << 3 | base & 7
    if short:
        code[:, 6] = at.astype(np.int8).view(np.uint8)
    else:
        code[:, 6:] = at.astype("<i4").reshape(-1, 1).view(np.uint8)
    return code


def register_operands(
    operation: Instruction, width: int, register: Ints, between: Ints | int
) -> Bytes:
    """Instructions of three operands, of which first and last are the same register."""
    code = np.empty((register.size, 6), np.uint8)
    code[:, :4] = _prefix(operation, width, register, between, False)
    code[:, 1] ^= ((register & 8) << 2 | (register & 16) << 2).astype(np.uint8)
    code[:, 4] = operation.opcode
    code[:, 5] = 0xC0 | (register & 7) << 3 | register & 7
    return code


def broadcast_number(width: int, number: float) -> Bytes:
    """The input's register full of a number: mov eax, its bits; vpbroadcastd of eax."""
    moved = np.append(np.uint8(0xB8), np.array([number], "<f4").view(np.uint8))
    broadcast = register_operands(BROADCAST_GENERAL, width, np.array([INPUT]), 0)
    broadcast[:, 1] |= 0x60  # the last operand is eax
    broadcast[:, 5] = 0xC0 | (INPUT & 7) << 3 | RAX
    return np.concatenate([moved, broadcast.reshape(-1)])


def hex_bytes(hexadecimal: str) -> Bytes:
    """One instruction, written as in a disassembly."""
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8)


def _prefix(
    operation: Instruction, width: int, register: Ints, between: Ints | int | None, broadcast: bool
) -> Bytes:
    """The EVEX prefix: numbers of registers are in it bit by bit and inverted."""
    other = np.broadcast_to(np.asarray(0 if between is None else between), register.shape)
    prefix = np.empty((register.size, 4), np.uint8)
    prefix[:, 0] = 0x62
    prefix[:, 1] = 0xF0 ^ ((register & 8) << 4 | register & 16) | operation.map
    prefix[:, 2] = (~other & 15) << 3 | 4 | operation.prefix
    prefix[:, 3] = width << 5 | broadcast << 4 | (~other & 16) >> 1
    return prefix


def prefetch(at: Ints) -> Bytes:
    """prefetcht1 [r8 + at]: a cache line into the second-level cache."""
    code = np.empty((at.size, 8), np.uint8)
    code[:, :4] = (0x41, 0x0F, 0x18, 0x90)
    code[:, 4:] = at.astype("<i4").reshape(-1, 1).view(np.uint8)
    return code


def advance_weights(count: int) -> Bytes:
    """The pointer to the weights moved by ``count`` bytes: add rsi, count."""
    return np.frombuffer(b"\x48\x81\xc6" + count.to_bytes(4, "little"), np.uint8)
