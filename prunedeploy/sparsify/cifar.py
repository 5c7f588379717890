"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), in the files that their page offers.

The files for Python are pickles; they are read as data, and nothing in them runs.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.checkpoint.pickle.stub import NumpyArray, text
from prunedeploy.checkpoint.pickle.unpickle import CodeRefused, load_pickle
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.sparsify.arrays import Arrays

PIXELS = 3 * 32 * 32
MAX_FILE_BYTES = 400 << 20  # the largest, train of CIFAR-100, has 155 MB
FOLDERS = (
    *("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"),
    ".",
)
# the files to train on and to test on, and the bytes before the pixels of a binary record
KINDS = (
    (r"data_batch_\d+\.bin", r"test_batch\.bin", 1),
    (r"train\.bin", r"test\.bin", 2),
    (r"data_batch_\d+", "test_batch", 0),
    ("train", "test", 0),
)


def read(path: Path) -> Arrays | None:
    """Training and test images, uint8 [N, 3, 32, 32]; None where ``path`` has no such files.

    Raises:
        UserError: they are damaged.
    """
    files = _files(path)
    for train, test, coarse in KINDS:
        names = sorted(name for name in files if re.fullmatch(train, name))
        tests = [name for name in files if re.fullmatch(test, name)]
        if names and tests:
            return Arrays(_parts(path, files, names, coarse), _parts(path, files, tests, coarse))
    return None


def _files(path: Path) -> Mapping[str, bytes]:
    """The contents by name of the files that may be CIFAR's, of a folder or an archive."""
    wanted = re.compile("|".join(f"(?:{each})" for kind in KINDS for each in kind[:2]))
    if path.is_dir():
        folder = next((path / name for name in FOLDERS if (path / name).is_dir()), path)
        matching = [each for each in folder.iterdir() if wanted.fullmatch(each.name)]
        return {each.name: each.read_bytes() for each in matching if each.is_file()}
    if not tarfile.is_tarfile(path):
        return {}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if not member.isfile() or not wanted.fullmatch(name):
                    continue
                if member.size > MAX_FILE_BYTES:
                    raise UserError(f"{path}: {name} is too large to be one of CIFAR's")
                if (file := archive.extractfile(member)) is not None:
                    files[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return files


def _parts(
    path: Path, files: Mapping[str, bytes], names: Sequence[str], label_bytes: int
) -> tuple[Array, Array]:
    parts = []
    for name in names:
        where = f"{path}, {name}"
        parts.append(
            _binary(where, files[name], label_bytes) if label_bytes else _pickle(where, files[name])
        )
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def _binary(where: str, content: bytes, label_bytes: int) -> tuple[Array, Array]:
    """Records of one label (coarse and fine for CIFAR-100: the last counts) and the pixels."""
    size = label_bytes + PIXELS
    if not content or len(content) % size:
        raise UserError(f"{where} is cut short: its size is no multiple of {size} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, label_bytes:], records[:, label_bytes - 1]


def _pickle(where: str, content: bytes) -> tuple[Array, Array]:
    try:
        read = load_pickle(io.BytesIO(content), _refuse)
    except CodeRefused as error:
        raise UserError(f"{where} would run code ({error}): it is not one of CIFAR's") from None
    except Exception as error:
        raise UserError(f"cannot read {where}: it is damaged, or no pickle ({error})") from None
    entries = {text(key): value for key, value in read.items()} if isinstance(read, dict) else {}
    data, labels = entries.get("data"), _labels(entries)
    images = data.array() if isinstance(data, NumpyArray) else None
    if images is None or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise UserError(f"{where} has no images of CIFAR")
    if labels is None or len(labels) != len(images):
        raise UserError(f"{where} has no label for each image")
    return images, labels


def _labels(read: Mapping[str, Any]) -> Array | None:
    labels = read.get("fine_labels", read.get("labels"))
    if not isinstance(labels, list) or not all(type(x) is int and 0 <= x < 100 for x in labels):
        return None
    return np.array(labels, np.int64)


def _refuse(_: bytes) -> Any:
    raise ValueError("tensors within")
