"""Counts the instructions of an assembled module: how much of its code is multiply-adds."""

from __future__ import annotations

import struct

VOLTA = 70  # from here on an instruction has 16 bytes; before 8, and 8 more for every three


def instructions(cubin: bytes, capability: int) -> dict[str, int]:
    """The instructions of each entry, with the few that fill its end up.

    Args:
        cubin: the file that ptxas wrote, an ELF file of 64 bits.
        capability: of the GPU that it is for, 75 for 7.5.
    """
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    sections = [struct.unpack_from("<2I4Q", cubin, table + size * index) for index in range(count)]
    strings = sections[names][4]
    counts = {}
    for name, _, _, _, _, length in sections:
        begin = strings + name
        text = cubin[begin : cubin.index(b"\0", begin)].decode()
        if text.startswith(".text."):
            each = 16 if capability >= VOLTA else 32 / 3
            counts[text.removeprefix(".text.")] = int(length / each)
    return counts
