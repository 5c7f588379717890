"""A folder as a .tar.gz that is the same bytes every time, and back with nothing but its files."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path, PurePosixPath

from prunedeploy.errors import UserError


def pack(folder: Path, archive: Path, name: str) -> None:
    """All files of ``folder`` under the folder ``name`` of the new file ``archive``."""
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


def unpack(archive: Path, folder: Path) -> None:
    """The files of ``archive``, without their first folder, into ``folder``.

    Raises:
        UserError: it is damaged, or holds anything but plain files inside one folder.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if member.isdir():
                    continue
                if not member.isfile() or ".." in parts or parts[:1] == ("/",) or len(parts) < 2:
                    raise UserError(f"{archive} holds {member.name}, which is no plain file")
                place = folder.joinpath(*parts[1:])
                place.parent.mkdir(parents=True, exist_ok=True)
                file = tar.extractfile(member)
                assert file is not None
                with place.open("wb") as written:
                    while chunk := file.read(1 << 20):
                        written.write(chunk)
                place.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile) as error:
        raise UserError(f"cannot unpack {archive}: {error}") from None
