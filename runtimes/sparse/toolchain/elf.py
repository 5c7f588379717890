"""Whether a shared library is whole: the loader maps what its tables name without a look at how
long the file is, and dies of what is missing."""

from __future__ import annotations

import struct
from pathlib import Path

from prunedeploy.core.errors import UserError

HEADER, ENTRY = 64, 56  # bytes of the file's header, and of one of its table of segments
KIND = b"\x7fELF\x02\x01"  # 64 bits, little-endian


def check_whole(path: Path) -> None:
    """Refuse a file that is no shared library, or a part of one.

    Raises:
        UserError: it is so.
    """
    with path.open("rb") as file:
        head = file.read(HEADER)
        if len(head) < HEADER or not head.startswith(KIND):
            raise UserError(
                f"cannot load the engine: {path} is no shared library; build it again here"
            )
        (table,) = struct.unpack_from("<Q", head, 32)
        entry, count = struct.unpack_from("<HH", head, 54)
        size = path.stat().st_size
        whole = entry >= ENTRY and table + entry * count <= size
        if whole:
            file.seek(table)
            data = file.read(entry * count)
            whole = all(_end(data, entry * index) <= size for index in range(count))
    if not whole:
        raise UserError(f"cannot load the engine: {path} is cut short; build it again here")


def _end(data: bytes, at: int) -> int:
    """Where the segment at ``at`` ends in the file."""
    (begin,) = struct.unpack_from("<Q", data, at + 8)
    (length,) = struct.unpack_from("<Q", data, at + 32)
    return int(begin) + int(length)
