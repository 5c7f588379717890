"""Recognises the kind of a file by its bytes: names and suffixes of checkpoints say nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

from prunedeploy.checkpoint.shards import is_index
from prunedeploy.core.errors import UserError

Kind = Literal[
    "zip", "legacy", "pickle", "tar", "safetensors", "shards", "npz", "pt2", "torchscript", "onnx"
]

# torch.save before 1.6 begins with this number as a pickle of protocol 2.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# What people pass by mistake, and what to do instead.
FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"<", "a web page or XML, not a checkpoint: fetch the file itself"),
    (b"\x89HDF", "an HDF5 file of Keras: export the network to ONNX first"),
    (b"GGUF", "a GGUF file, which is not supported: give the original checkpoint"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"x\x9c", "compressed with zlib (joblib?): unpack it first"),
)

MAX_FIELDS = 100_000  # of a model: its functions and properties, above all
# Fields of onnx.ModelProto; 7 is the graph.
ONNX_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26))


def kind(path: str | Path) -> Kind:
    """The kind of the file at ``path``.

    Raises:
        UserError: it cannot be read, or is none that can be loaded.
    """
    path = Path(path)
    try:
        if not path.is_file() and not path.is_dir() and path.exists():
            raise UserError(f"{path} is not a regular file: name the file itself")
        with path.open("rb") as file:
            head = file.read(512)
            size = file.seek(0, 2)
            file.seek(max(size - 1, 0))
            last = file.read(1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the checkpoint file in it") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    known = _kind(path, head, size, last)
    if known is not None:
        return known
    if path.suffix == ".onnx":
        return "onnx"
    if is_index(head, path):
        return "shards"
    if not head:
        raise UserError(f"{path} is empty: fetch it again")
    for magic, what in FOREIGN:
        if head.lstrip().startswith(magic):
            raise UserError(f"{path} is {what}")
    raise UserError(
        f"{path} is not a checkpoint: expected torch.save, pickle, safetensors, torch.export,"
        " TorchScript or ONNX"
    )


def _kind(path: Path, head: bytes, size: int, last: bytes) -> Kind | None:
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if head[257:262] == b"ustar":
        return "tar"
    if 8 + int.from_bytes(head[:8], "little") <= size and head[8:9] == b"{":
        return "safetensors"
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "pickle"
    if head[:1] == b"\x08" and _is_onnx(path):
        return "onnx"
    if head[:1] in (b"(", b"]", b"}", b"c") and last == b".":
        return "pickle"  # protocols 0 and 1 have no header
    return None


def _zip_kind(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return "zip"  # broken: its reader says how
    inner = {name.partition("/")[2] for name in names}
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return "pt2"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "zip" if "data.pkl" in inner else None


def _is_onnx(path: Path) -> bool:
    """Whether the file is a sequence of fields of ModelProto, the graph among them."""
    seen = set()
    count = 0
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        while file.tell() < size:
            if (count := count + 1) > MAX_FIELDS:
                return False
            tag = _varint(file)
            field, wire = tag >> 3, tag & 7
            if field not in ONNX_FIELDS or wire not in (0, 2):
                return False
            seen.add(field)
            value = _varint(file)
            if wire == 2:
                if value < 0 or file.tell() + value > size:
                    return False
                file.seek(value, 1)
    return 7 in seen


def _varint(file: BinaryIO) -> int:
    """A base-128 number, or -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return -1
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return -1
