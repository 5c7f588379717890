"""Weights in files beside a model: which they are, and that they are what the model may read.

A model's file comes from strangers, and says itself where its weights lie. What it names has to be
an ordinary file in the model's own folder, or below it: otherwise a downloaded model could have
any file of the machine copied into what is written, or wait for a device for ever. The ONNX
specification asks for the same (docs/ExternalData.md; CVE-2022-25882, CVE-2024-5187).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from prunedeploy.core.errors import UserError
from prunedeploy.graph import wire


def files(path: Path) -> list[Path]:
    """The files that hold weights of the model at ``path``, in the order of their names.

    Args:
        path: an ONNX file; what is none has no such files, and whoever loads it says so.

    Raises:
        UserError: it names a file that it may not read (see ``resolve``); a file that is missing
            is listed all the same.
    """
    try:
        locations = {location for location, external in wire.locations(path) if external}
    except (OSError, ValueError):
        return []
    for location in locations:
        resolve(path, location, missing_ok=True)
    return [path.parent / location for location in sorted(locations)]


def resolve(path: Path, location: str, *, missing_ok: bool = False) -> Path:
    """Where weights of the model at ``path`` really lie.

    Symbolic links are followed, and may lead to where the model's file itself really lies: caches
    keep files under their hashes and link to them from a folder a version.

    Args:
        path: the model's file.
        location: as the model writes it, relative to its folder.
        missing_ok: whether a file that is not there is for somebody else to report.

    Raises:
        UserError: the location leads out of the model's folder, or to something that is not a
            regular file, or not of this model alone.
    """
    parts = PurePosixPath(location)
    if not location or "\0" in location or parts.is_absolute() or ".." in parts.parts:
        raise _outside(path, location)
    file = path.parent / location
    real = Path(os.path.realpath(file))
    folders = (os.path.realpath(path.parent), Path(os.path.realpath(path)).parent)
    if not any(real.is_relative_to(folder) for folder in folders):
        raise _outside(path, location)
    try:
        status = real.stat()
    except FileNotFoundError:
        if missing_ok:
            return real
        raise UserError(
            f"cannot read {path} as ONNX: the file of its weights, {location}, is missing: "
            "put it beside the model"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path} as ONNX: {location}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"cannot read {path} as ONNX: it reads weights from {location!r}, "
            "which is not a regular file"
        )
    if status.st_nlink > 1:  # it may be any file of the machine under a second name
        raise UserError(
            f"cannot read {path} as ONNX: the file of its weights, {location}, has several hard "
            "links: copy it to a file of its own"
        )
    return real


def _outside(path: Path, location: str) -> UserError:
    return UserError(
        f"cannot read {path} as ONNX: it reads weights from {location!r}, which is outside of the "
        "model's folder: only files in that are read"
    )


def check_listed(path: Path, listed: Collection[str]) -> frozenset[str]:
    """Check that the model inside an engine reads weights only from files that the engine lists.

    Those are covered by hashes. What a runtime makes of a location that its tensor does not use is
    not for us to say, so all of them count.

    Args:
        path: the model's file.
        listed: names of the engine's files, relative to the folder of ``path``.

    Returns:
        The files that it reads, relative to the folder of ``path``.

    Raises:
        UserError: it reads another file.
        ValueError: it is not in protobuf's wire format.
    """
    files = set()
    for location, _ in wire.locations(path):
        resolve(path, location)
        files.add(PurePosixPath(location).as_posix())
        if not files <= set(listed):
            raise UserError(
                f"{path} reads weights from {location}, which is not among the engine's files: "
                "build it again"
            )
    return frozenset(files)
