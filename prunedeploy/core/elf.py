"""Which versions of the C library a program or library for Linux asks for."""

from __future__ import annotations

import struct
from pathlib import Path

from prunedeploy.core.errors import UserError

VERNEED = 0x6FFFFFFE  # SHT_GNU_verneed
MACHINES = {62: "x86_64", 183: "aarch64"}


def machine(path: Path) -> str:
    """The architecture as ``platform.machine`` names it; the ELF number where that is unknown."""
    (number,) = struct.unpack_from("<H", _elf(path), 18)
    return MACHINES.get(number, str(number))


def needed(path: Path) -> dict[str, set[str]]:
    """Version names by library, such as {"libc.so.6": {"GLIBC_2.17"}}.

    Raises:
        UserError: not a 64-bit little-endian ELF file.
    """
    data = _elf(path)
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQII", data, table + size * i) for i in range(count)]
    found: dict[str, set[str]] = {}
    for section in sections:
        if section[1] == VERNEED:
            # sh_link is the section of the strings, sh_info how many libraries there are
            strings = sections[section[6]][4]
            _read(data, section[4], strings, section[7], found)
    return found


def glibc(*paths: Path) -> tuple[int, ...]:
    """The newest version of glibc that any of ``paths`` needs; () for none."""
    names = {name for path in paths for versions in needed(path).values() for name in versions}
    numbers = [name.removeprefix("GLIBC_") for name in names if name.startswith("GLIBC_")]
    return max((version(x) for x in numbers if x[:1].isdecimal()), default=())


def version(text: str) -> tuple[int, ...]:
    """2.27 as (2, 27)."""
    return tuple(map(int, text.split(".")))


def _read(data: bytes, at: int, strings: int, libraries: int, found: dict[str, set[str]]) -> None:
    for _ in range(libraries):
        _, versions, file, first, after = struct.unpack_from("<HHIII", data, at)
        names = found.setdefault(_string(data, strings + file), set())
        entry = at + first
        for _ in range(versions):
            _, _, _, name, step = struct.unpack_from("<IHHII", data, entry)
            names.add(_string(data, strings + name))
            entry += step
        at += after


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _elf(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise UserError(f"{path} is not a 64-bit program or library for Linux")
    return data
