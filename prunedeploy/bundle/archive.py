"""Packs a folder as a .tar.gz that is the same bytes every time, and unpacks untrusted ones."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from prunedeploy.core.errors import UserError

CHUNK = 1 << 20
MAX_FILES = 100_000


def pack(folder: Path, archive: Path, name: str) -> None:
    """Write all files of ``folder``, under the folder ``name``, to the new file ``archive``."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, 0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            member = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
            member.size = path.stat().st_size
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as file:
                tar.addfile(member, file)


def unpack(archive: Path, folder: Path, limit: int | None = None) -> None:
    """Unpack the files of ``archive``, without their first folder, into ``folder``.

    Args:
        archive: the file.
        folder: made where it is not there.
        limit: bytes that it may be unpacked; None for any number.

    Raises:
        UserError: it is damaged, holds anything but plain files inside one folder, or more than
            ``limit``.
    """
    try:
        with (
            gzip.open(archive) as packed,
            tarfile.open(
                fileobj=cast(BinaryIO, _Bounded(packed, archive, limit)), mode="r:"
            ) as tar,
        ):
            for count, member in enumerate(tar):
                if count > MAX_FILES:
                    raise UserError(f"{archive} holds more than {MAX_FILES:,} files")
                if not member.isdir():
                    _unpack_file(tar, member, archive, folder)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error) as error:
        raise UserError(f"cannot unpack {archive}: {error}") from None


def _unpack_file(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path
) -> None:
    parts = PurePosixPath(member.name).parts
    plain = member.isfile() and not member.issparse()  # holes have sizes of their own
    if not plain or ".." in parts or parts[:1] == ("/",) or len(parts) < 2:
        shown = ascii(member.name[:200])
        raise UserError(f"{archive} holds {shown}, which is no plain file")
    path = folder.joinpath(*parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tar.extractfile(member)
    assert file is not None
    with path.open("wb") as written:
        while chunk := file.read(CHUNK):
            written.write(chunk)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


class _Bounded:
    """The unpacked bytes for ``tarfile``, which reads a header of any size that an archive names
    into memory at once."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, archive: Path, limit: int | None) -> None:
        self._file, self._archive, self._limit = file, archive, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise UserError(f"{self._archive} claims a header of {size:,} bytes, as none has")
        data: bytes = self._file.read(size)
        if self._limit is not None and self._file.tell() > self._limit:
            raise UserError(f"{self._archive} holds more than {self._limit:,} bytes unpacked")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if self._limit is not None and offset > self._limit:
            raise UserError(f"{self._archive} holds more than {self._limit:,} bytes unpacked")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
