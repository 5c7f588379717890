"""ELF files: what they are for, what they need, and whether they are whole."""

from __future__ import annotations

import platform
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prunedeploy.core import elf
from prunedeploy.core.errors import UserError

PYTHON = Path(sys.executable).resolve()


def test_the_machine_and_versions_of_a_program() -> None:
    assert elf.machine(PYTHON) == platform.machine()
    assert () < elf.glibc(PYTHON) <= elf.version(platform.libc_ver()[1])


def test_reading_versions_sees_what_readelf_sees() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf here")
    said = subprocess.run(
        [readelf, "-V", PYTHON], capture_output=True, text=True, check=True
    ).stdout
    said = said[said.index(".gnu.version_r") :]
    wanted = set(re.findall(r"Name: (\S+)  Flags", said))
    assert {x for names in elf.needed(PYTHON).values() for x in names} == wanted


@pytest.mark.parametrize("read", [elf.machine, elf.needed, elf.check_whole])
@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n" * 9, elf.MAGIC, b"\x7fELF\x01\x01" + bytes(58)]
)
def test_what_is_no_elf_file(read: Callable[[Path], object], data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UserError, match="not a 64-bit program or library for Linux"):
        read(tmp_path / "file")


def test_a_file_without_its_end_is_not_whole(tmp_path: Path) -> None:
    """One byte less than the segments take, and a table that is missing."""
    elf.check_whole(PYTHON)
    data = PYTHON.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    entries = [struct.unpack_from("<II4Q", data, table + size * i) for i in range(count)]
    end = max(entry[2] + entry[5] for entry in entries)
    path = tmp_path / "part"
    path.write_bytes(data[:end])
    elf.check_whole(path)
    for length in (end - 1, table + size * count - 1, elf.HEADER):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="part is cut short"):
            elf.check_whole(path)
