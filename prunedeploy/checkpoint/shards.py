"""Weights in several files, and the index that says which tensor is in which.

``model.safetensors.index.json`` and ``pytorch_model.bin.index.json`` of Hugging Face's libraries
hold ``{"metadata": ..., "weight_map": {name: file}}``; the files lie beside the index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import read_text
from prunedeploy.core.text import shortened

MAX_BYTES = 64 << 20  # of an index: the names of all tensors
WEIGHT_MAP = "weight_map"


def is_index(head: bytes, path: Path) -> bool:
    """Whether the file is such an index, by its first bytes and its name."""
    return path.name.endswith(".index.json") and head.lstrip()[:1] == b"{"


def files_of(index: Any) -> dict[str, str]:
    """The file of each tensor by name.

    Raises:
        UserError: it is no index, or names a file that does not lie beside it.
    """
    names = index.get(WEIGHT_MAP) if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError("is a JSON file, and no index of weights in several files")
    for file in names.values():
        plain = isinstance(file, str) and file not in ("", ".", "..") and Path(file).name == file
        if not plain or "\\" in file:
            raise UserError(f"names {file!r} as a file of weights, which does not lie beside it")
    return names


def read_index(path: Path) -> dict[str, str]:
    """The files that the index at ``path`` names, by tensor.

    Raises:
        UserError: it is damaged, or as ``files_of``; the message names it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is too large for an index of weights")
    try:
        return files_of(json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again") from None
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def files(path: Path) -> list[Path]:
    """The index at ``path`` and the files of its weights.

    Raises:
        UserError: as ``read_index``, or one is missing.
    """
    beside = [path.parent / name for name in sorted(set(read_index(path).values()))]
    # Path.is_file fails on a name that no file can have
    absent = [shortened(file.name) for file in beside if not os.path.isfile(file)]  # noqa: PTH113
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"{path.parent} lacks {absent[0]}{more}, of {path.name}: fetch it, too")
    return [path, *beside]


def read(path: Path, read_file: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """All tensors of the files, by name.

    Raises:
        UserError: as ``files``; a tensor is not where the index says, or in two files.
    """
    index = read_index(path)
    tensors: dict[str, Any] = {}
    for file in files(path)[1:]:
        part = read_file(file)
        wanted = {name for name, where in index.items() if where == file.name}
        if absent := sorted(wanted - part.keys()):
            raise UserError(f"{file} has no {absent[0]}, which {path.name} says is in it")
        if twice := sorted(part.keys() & tensors.keys()):
            raise UserError(f"{file} has {twice[0]}, which another file of {path.name} has, too")
        tensors |= part
    return tensors
