"""Programs and libraries of 64-bit Linux, read as files: the ELF format, as elf(5) describes it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from prunedeploy.core.errors import UserError

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
HEADER, SEGMENT = 64, 56  # bytes of the file's header, and of an entry of its table of segments
VERNEED = 0x6FFFFFFE  # SHT_GNU_verneed
MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class _Table:
    """Entries of ``size`` bytes each, from ``offset`` of the file on."""

    offset: int
    size: int
    count: int

    @property
    def end(self) -> int:
        return self.offset + self.size * self.count


@dataclass(frozen=True)
class _Header:
    machine: int
    segments: _Table
    sections: _Table


def machine(path: Path) -> str:
    """The architecture as ``platform.machine`` names it; the ELF number where that is unknown.

    Raises:
        UserError: not a 64-bit little-endian ELF file.
    """
    number = _header(path).machine
    return MACHINES.get(number, str(number))


def check_whole(path: Path) -> None:
    """Check that a file has all the bytes that its segments take.

    The loader maps segments without a look at the file's length, and the process dies of those
    that are missing.

    Raises:
        UserError: the file is cut short, or not a 64-bit little-endian ELF file.
    """
    table, size = _header(path).segments, path.stat().st_size
    whole = table.size >= SEGMENT and table.end <= size
    if whole:
        with path.open("rb") as file:
            file.seek(table.offset)
            data = file.read(table.size * table.count)
        whole = all(_end(data, table.size * index) <= size for index in range(table.count))
    if not whole:
        raise UserError(f"{path} is cut short")


def needed(path: Path) -> dict[str, set[str]]:
    """Version names by library, such as {"libc.so.6": {"GLIBC_2.17"}}.

    Raises:
        UserError: not a 64-bit little-endian ELF file.
    """
    table, data = _header(path).sections, path.read_bytes()
    starts = range(table.offset, table.end, table.size or 1)
    sections = [struct.unpack_from("<IIQQQQII", data, start) for start in starts]
    by_library: dict[str, set[str]] = {}
    for section in sections:
        if section[1] == VERNEED:
            # sh_link is the section of the strings, sh_info how many libraries there are
            strings = sections[section[6]][4]
            _read_versions(data, section[4], strings, section[7], by_library)
    return by_library


def glibc(*paths: Path) -> tuple[int, ...]:
    """The newest version of glibc that any of ``paths`` needs; () for none."""
    names = {name for path in paths for versions in needed(path).values() for name in versions}
    numbers = [name.removeprefix("GLIBC_") for name in names if name.startswith("GLIBC_")]
    return max((version(x) for x in numbers if x[:1].isdecimal()), default=())


def version(text: str) -> tuple[int, ...]:
    """2.27 as (2, 27)."""
    return tuple(map(int, text.split(".")))


def _header(path: Path) -> _Header:
    with path.open("rb") as file:
        head = file.read(HEADER)
    if len(head) < HEADER or not head.startswith(MAGIC):
        raise UserError(f"{path} is not a 64-bit program or library for Linux")
    (number,) = struct.unpack_from("<H", head, 18)
    segments, sections = struct.unpack_from("<QQ", head, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from("<HHHH", head, 54)
    return _Header(
        number,
        _Table(segments, segment_size, segment_count),
        _Table(sections, section_size, section_count),
    )


def _end(data: bytes, at: int) -> int:
    """The offset in the file at which the segment of the entry at ``at`` ends."""
    (begin,) = struct.unpack_from("<Q", data, at + 8)
    (length,) = struct.unpack_from("<Q", data, at + 32)
    return int(begin) + int(length)


def _read_versions(
    data: bytes, at: int, strings: int, libraries: int, by_library: dict[str, set[str]]
) -> None:
    for _ in range(libraries):
        _, versions, file, first, after = struct.unpack_from("<HHIII", data, at)
        names = by_library.setdefault(_string(data, strings + file), set())
        entry = at + first
        for _ in range(versions):
            _, _, _, name, step = struct.unpack_from("<IHHII", data, entry)
            names.add(_string(data, strings + name))
            entry += step
        at += after


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
