"""The containers of torch.save: the zip archive (1.6 on) and the legacy stream before it.

Read here rather than by ``torch.load``, whose ``weights_only`` refuses a whole file for one
``argparse.Namespace`` beside the weights, and with checksums compared, which torch leaves out.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prunedeploy.checkpoint.pickle.stub import Bytes, Dtype, Storage
from prunedeploy.checkpoint.pickle.unpickle import load_pickle
from prunedeploy.core.budget import Budget

CHUNK = 1 << 22
MAX_DEFLATE_RATIO = 1040  # the most that deflate can compress
MAX_PICKLE_BYTES = 256 << 20  # tensors lie in other members
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_pickle(file: BinaryIO, storage: Callable[[tuple[Any, ...]], Any] | None = None) -> Any:
    """Read the pickle at the file's position, and any torch.save within it.

    ``storage`` gives the storage that a persistent id of torch.save stands for.

    Raises:
        CodeRefused: it names a global that only code would need.
        Exception: any other, for a damaged pickle; the caller words it.
    """
    return load_pickle(file, _read_bytes, storage)


def _read_bytes(data: bytes) -> Any:
    """A storage inside a plain pickle: the bytes of a torch.save of its own."""
    file = io.BytesIO(data)
    return read_zip(file) if data[:2] == b"PK" else read_legacy(file, len(data))


def read_zip(source: Path | BinaryIO, record: str = "data") -> Any:
    """Read what was given to torch.save from its zip archive; unknown objects become stubs.

    Args:
        source: the archive.
        record: the pickle in it: ``constants`` of TorchScript's programs, None where there is none.

    Raises:
        Exception: any, for a damaged file; the caller words it.
    """
    with zipfile.ZipFile(source) as archive:
        _drop_absent_checksums(archive)
        check_claims(archive)
        root = _root(archive)
        if record != "data" and f"{root}{record}.pkl" not in archive.namelist():
            return None
        swap = _byte_order(archive, root) != sys.byteorder
        storages: dict[str, Bytes] = {}

        def storage(pid: tuple[Any, ...]) -> Storage:
            kind, key, _, elements = pid[:4]
            if key not in storages:
                info = archive.getinfo(f"{root}{record}/{key}")
                if info.file_size != elements * kind.dtype.itemsize:
                    raise pickle.UnpicklingError(f"{info.filename} has the wrong size")
                data = _read_member(archive, info)
                if swap:
                    _swap(data, kind.dtype)
                storages[key] = Bytes(data)
            return Storage(storages[key], kind.dtype)

        info = archive.getinfo(f"{root}{record}.pkl")
        if info.file_size > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"{info.filename} has {info.file_size:,} bytes")
        return read_pickle(io.BytesIO(archive.read(info)), storage)


def check_claims(archive: zipfile.ZipFile) -> None:
    """Refuse sizes that the archive does not have, or has no reason to: memory is taken before they
    are read.

    Raises:
        EOFError: a member claims more than the file has.
        OverBudgetError: all of it would be too large once unpacked.
    """
    budget, members = Budget(_size(archive)), archive.infolist()
    for info in members:
        ratio = 1 if info.compress_type == zipfile.ZIP_STORED else MAX_DEFLATE_RATIO
        if info.file_size > ratio * info.compress_size or info.compress_size > budget.size:
            raise EOFError(f"{info.filename} is cut short")
    whole = sum(info.file_size for info in members)
    budget.check("what it holds", whole, budget.unpacked, "bytes")


def _size(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    position = archive.fp.tell()
    size = archive.fp.seek(0, io.SEEK_END)
    archive.fp.seek(position)
    return size


def _root(archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if not names:
        raise pickle.UnpicklingError("no data.pkl in the archive")
    return min(names, key=len).removesuffix("data.pkl")


def _byte_order(archive: zipfile.ZipFile, root: str) -> str:
    """Archives before PyTorch 2.1 have no mark: nearly all machines were little-endian."""
    if f"{root}byteorder" not in archive.namelist():
        return "little"
    return archive.read(f"{root}byteorder").decode()


def _drop_absent_checksums(archive: zipfile.ZipFile) -> None:
    """``torch.serialization.set_crc32_options(False)`` writes 0 for all: nothing to compare."""
    members = archive.infolist()
    if all(info.CRC == 0 for info in members):
        for info in members:
            del info.CRC


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    """The member's bytes in memory of their own, read once and compared with its checksum."""
    data = bytearray(info.file_size)
    view, position = memoryview(data), 0
    with archive.open(info) as file:
        while part := file.read(CHUNK):
            view[position : position + len(part)] = part
            position += len(part)
    if position != len(data):
        raise EOFError(f"{info.filename} is cut short")
    return data


def _swap(data: bytearray, dtype: Dtype) -> None:
    """Bring numbers into the byte order of this machine; a complex one is two."""
    size = dtype.itemsize // (2 if "complex" in dtype.name else 1)
    np.frombuffer(data, f"u{size}").byteswap(inplace=True)


def read_legacy(file: BinaryIO, size: int) -> Any:
    """Read what was given to torch.save from the stream that it wrote before version 1.6.

    Four pickles (a magic number, the protocol, the writing machine, the object), the keys of the
    storages, then each storage: its count of elements as a 64-bit number, and its bytes. ``size``
    is that of the file.

    Raises:
        Exception: any, for a damaged file; the caller words it.
    """
    if read_pickle(file) != LEGACY_MAGIC:
        raise pickle.UnpicklingError("not a file of torch.save")
    if read_pickle(file) != LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("an unknown version of torch.save")
    machine = read_pickle(file)
    if machine.get("little_endian", True) != (sys.byteorder == "little"):
        raise pickle.UnpicklingError("it is from a machine of the other byte order")
    parts: dict[str, tuple[bytearray, int]] = {}
    claimed = 0

    def storage(pid: tuple[Any, ...]) -> Storage:
        kind, key, _, elements, view = (*pid, None)[:5]
        nonlocal claimed
        if key not in parts:
            claimed += elements * kind.dtype.itemsize
            if elements < 0 or claimed > size:
                raise EOFError("it is cut short")
            parts[key] = bytearray(elements * kind.dtype.itemsize), kind.dtype.itemsize
        data = memoryview(parts[key][0])
        if view is not None:  # (key, offset, elements), of PyTorch before 0.4
            if min(view[1:]) < 0:
                raise pickle.UnpicklingError("a view before its storage")
            begin = view[1] * kind.dtype.itemsize
            data = data[begin : begin + view[2] * kind.dtype.itemsize]
        return Storage(Bytes(data), kind.dtype)

    result = read_pickle(file, storage)
    for key in read_pickle(file):
        data, itemsize = parts[key]
        (elements,) = struct.unpack("<q", file.read(8))
        if elements * itemsize != len(data) or file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise EOFError("it is cut short")
        del parts[key]
    if parts:
        raise EOFError("it is cut short: storages are missing")
    return result
