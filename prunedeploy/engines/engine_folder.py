"""The folder that an engine is: a manifest, and the runtime's files with their hashes."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.files import from_json, read_text, sha256, to_json
from prunedeploy.core.records import MANIFEST_FORMAT, Engine, Manifest

MANIFEST = "manifest.json"
MAX_NAME = 255  # bytes of a file's name, as systems have it
PYTHON_CACHE = "__pycache__"  # of a sparse engine's session.py, once it was imported


def read_engine(path: str | Path) -> Engine:
    """The engine in folder ``path``, every file of it checked against its hash.

    Raises:
        UserError: not an engine, or a file is missing or is not what was built.
    """
    folder = Path(path)
    if not folder.is_dir():
        refuse_bundle(folder)
        what = "is a file, not an engine's folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: build one with `prunedeploy build`")
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        file = folder / _plain(name, folder)
        if not file.is_file():
            raise UserError(f"{folder} is not complete: {name} is missing; build it again")
        if sha256(file) != expected:
            raise UserError(f"{file} is not what was built: its hash differs; build it again")
    return Engine(folder, manifest, sha256(folder / MANIFEST))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into the folder of its engine, which it makes complete."""
    (folder / MANIFEST).write_text(to_json(manifest))


def refuse_to_replace(path: Path) -> None:
    """Check that ``path`` is free, or an engine of ours with nothing else in its folder.

    Raises:
        UserError: something is there that would be lost.
    """
    if path.is_symlink():
        raise OutputError(f"cannot write {path}: it is a symbolic link; name the folder itself")
    if not path.exists():
        return
    if not path.is_dir():
        raise OutputError(f"cannot write {path}: a file of that name is there; name another folder")
    try:
        files = _read_manifest(path).files
    except UserError:
        raise OutputError(
            f"cannot write {path}: the folder that is there is not an engine; name another"
        ) from None
    ours = {MANIFEST, PYTHON_CACHE, *(PurePosixPath(name).parts[0] for name in files)}
    if strange := sorted({entry.name for entry in path.iterdir()} - ours):
        raise OutputError(
            f"cannot write {path}: {strange[0]} in it is not the engine's and would be lost; "
            "move it away"
        )


def refuse_bundle(path: Path) -> None:
    """A device bundle, folder or archive, is not taken for an engine that was measured.

    Raises:
        UserError: ``path`` is a device bundle.
    """
    from prunedeploy.engines.bundle_record import is_bundle, refusal

    if is_bundle(path):
        raise UserError(refusal(path))


def _read_manifest(folder: Path) -> Manifest:
    try:
        text = read_text(folder / MANIFEST)
    except (OSError, UnicodeDecodeError):
        refuse_bundle(folder)
        raise UserError(f"{folder} is not an engine: it has no readable {MANIFEST}") from None
    return parse_manifest(folder, text)


def parse_manifest(folder: Path, text: str) -> Manifest:
    """The manifest of the engine in ``folder`` from its text.

    Raises:
        UserError: it is none, or of a version that this one does not read.
    """
    _check_format(folder, text)
    try:
        manifest = from_json(Manifest, text)
    except UserError as error:
        raise UserError(f"{folder} is not an engine: {MANIFEST} is {error}") from None
    if not manifest.outputs:
        raise UserError(f"{folder} is not an engine: its manifest names no outputs")
    if (smallest := min(manifest.batches, default=1)) < 1:
        raise UserError(f"{folder} is not an engine: its manifest has a batch of {smallest}")
    return manifest


def _check_format(folder: Path, text: str) -> None:
    """Refuse a manifest of a version that this one does not read; anything odd is for its reader.

    Raises:
        UserError: it is older or newer.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return
    written = data.get("format_version", 1) if isinstance(data, dict) else 1
    if type(written) is not int or 1 <= written <= MANIFEST_FORMAT:
        return
    age, advice = ("a newer", "update it") if written > MANIFEST_FORMAT else ("an older", "")
    raise UserError(
        f"{folder} was built by {age} version of prunedeploy: its manifest has format {written}, "
        f"this version reads 1 to {MANIFEST_FORMAT}; {advice and advice + ', or '}build the engine "
        "again"
    )


def _plain(name: str, folder: Path) -> str:
    # a manifest is data from strangers: it must not name files outside its folder
    parts = PurePosixPath(name)
    long = any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in parts.parts)
    if long or parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise UserError(f"{folder} is not an engine: its manifest names {name!a:.99}")
    return name
