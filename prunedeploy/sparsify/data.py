"""Data of a classification, read from the usual files and split for training and selection.

A part of the training data is held out for selection, so that the test set is used once, at the
end. Nothing is downloaded, and no file runs code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunedeploy.core.arrays import read_arrays
from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array
from prunedeploy.sparsify import cifar, image_folder
from prunedeploy.sparsify.arrays import Arrays, as_images
from prunedeploy.sparsify.trainer import Data

DIGITS = "digits"  # in the place of a path
HELD_OUT = 10  # one in so many training examples is held out by default
DIGITS_TEST = 360
SPLIT_SEED = 0  # the same examples are held out, whatever the seed of a training


@dataclass(frozen=True)
class Splits:
    """Data to train on, to select on, and to test on; how many classes; a hash of all of it."""

    train: Data
    selection: Data
    test: Data
    classes: int
    sha256: str

    @property
    def sample(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


def load(
    path: str | Path,
    test: str | Path | None = None,
    *,
    hold_out: int | None = None,
    limit: int = 0,
    size: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """Read, split and hash labelled data.

    Args:
        path: the files of CIFAR-10 or CIFAR-100 (the folder or the .tar.gz, for Python or binary);
            a folder ``train/CLASS/*`` of images with ``test/`` or ``val/`` beside; an .npz file
            with ``images`` or ``tokens`` and ``labels``; or "digits", those of scikit-learn.
        test: an .npz file to test on, where ``path`` has no test data.
        hold_out: training examples to hold out for selection; a tenth when None.
        limit: training examples to take of the others; 0 for all.
        size: of images in a folder, which are then scaled and cropped to ``size`` x ``size``.
        mean: of each channel of pixels in [0, 1]; that of the training images when None.
        std: likewise.

    Raises:
        UserError: unreadable, in no known format, or too little of it.

    Example:
        >>> from prunedeploy.sparsify.data import load
        >>> splits = load("digits", hold_out=137, limit=1000)
        >>> len(splits.train.labels), len(splits.selection.labels), len(splits.test.labels)
        (1000, 137, 360)
    """
    read = _digits() if str(path) == DIGITS else _read(Path(path), size)
    tested = read.test if test is None else _npz(Path(test)).train
    if tested is None:
        raise UserError(f"{path} has no test data: name a file of them with the key test")
    inputs, labels = read.train
    if inputs.shape[1:] != tested[0].shape[1:] or inputs.dtype != tested[0].dtype:
        raise UserError(f"the test data of {path} have another shape or type than the others")
    held, taken = _split(len(labels), hold_out, limit, path)
    return _splits(_Parts((inputs, labels), held, taken, tested), mean, std)


@dataclass(frozen=True)
class _Parts:
    """All training data, the indices held out and taken, and the test data."""

    everything: tuple[Array, Array]
    held: Array
    taken: Array
    test: tuple[Array, Array]


def _splits(parts: _Parts, mean: Sequence[float] | None, std: Sequence[float] | None) -> Splits:
    inputs, labels = parts.everything
    train = inputs[parts.taken]
    if mean is None or std is None:
        mean, std = _moments(train)
    elif len(mean) != len(std) or len(mean) != inputs.shape[1] or min(std) <= 0:
        raise UserError(f"mean and std have to be {inputs.shape[1]} numbers each, std positive")
    whole = Data(_tensor(train), _tensor(labels[parts.taken]), tuple(mean), tuple(std))

    def same(x: Array, y: Array) -> Data:
        return replace(whole, inputs=_tensor(x), labels=_tensor(y))

    selection = same(inputs[parts.held], labels[parts.held])
    test = same(*parts.test)
    classes = 1 + int(max(labels.max(), parts.test[1].max()))
    return Splits(whole, selection, test, classes, _sha256(whole, selection, test))


def _read(path: Path, size: int) -> Arrays:
    """The data at ``path``, in whichever format it has."""
    if not path.exists():
        raise UserError(f"no such data: {path}")
    if path.suffix == ".npz":
        return _npz(path)
    if (read := cifar.read(path)) is not None:
        return read
    if path.is_dir() and (path / "train").is_dir():
        return image_folder.read(path, size)
    raise UserError(
        f"{path} is none of the known formats: files of CIFAR, a folder train/CLASS/, or an .npz"
    )


def _npz(path: Path) -> Arrays:
    """``images`` or ``tokens`` with ``labels``, and perhaps the same with ``test_`` before."""
    arrays = read_arrays(path)
    if not isinstance(arrays, dict):
        raise UserError(f"{path} has to be an .npz file of images or tokens, and labels")
    name = "tokens" if "tokens" in arrays else "images"
    parts: list[tuple[Array, Array] | None] = []
    for prefix in ("", "test_"):
        if f"{prefix}{name}" not in arrays and prefix:
            parts.append(None)
            continue
        for key in (f"{prefix}{name}", f"{prefix}labels"):
            if key not in arrays:
                raise UserError(f"{path} has no array {key!r}: it needs {prefix}{name} and labels")
        inputs, labels = arrays[f"{prefix}{name}"], arrays[f"{prefix}labels"]
        parts.append(_checked(path, name, inputs, labels))
    train, test = parts
    assert train is not None
    return Arrays(train, test)


def _checked(path: Path, name: str, inputs: Array, labels: Array) -> tuple[Array, Array]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(inputs):
        raise UserError(f"{path}: labels must be one integer for each of the {name}")
    if not len(labels) or int(labels.min()) < 0:
        raise UserError(f"{path}: labels must count from 0, for at least one example")
    if name == "images":
        return as_images(inputs, path), labels.astype(np.int64)
    if inputs.ndim != 2 or inputs.dtype.kind not in "iu":
        raise UserError(f"{path}: tokens must be integers [N, L], found {inputs.dtype}")
    return inputs.astype(np.int64), labels.astype(np.int64)


def _digits() -> Arrays:
    """The 1,797 digits of scikit-learn, 8x8, of which 360 are for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn, which has the digits,", "demo") from None
    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    train, test = order[DIGITS_TEST:], order[:DIGITS_TEST]
    labels = labels.astype(np.int64)
    return Arrays((pixels[train], labels[train]), (pixels[test], labels[test]))


def _split(count: int, hold_out: int | None, limit: int, path: str | Path) -> tuple[Array, Array]:
    """Indices that are held out and that are trained on, both in their order."""
    held = count // HELD_OUT if hold_out is None else hold_out
    if held < 0 or limit < 0 or held >= count:
        raise UserError(f"{path} has {count} training examples: hold-out {held} leaves none")
    if limit > count - held:
        raise UserError(f"{path} has {count - held} training examples left: limit is {limit}")
    order = np.random.default_rng(SPLIT_SEED + 1).permutation(count)
    rest = order[held:]
    return np.sort(order[:held]), np.sort(rest[:limit] if limit else rest)


def _moments(inputs: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of images in [0, 1]; none of tokens."""
    if inputs.dtype == np.int64:
        return (), ()
    scale = 255.0 if inputs.dtype == np.uint8 else 1.0
    channels = [inputs[:, c].astype(np.float64) / scale for c in range(inputs.shape[1])]
    std = [float(each.std()) or 1.0 for each in channels]
    return tuple(float(each.mean()) for each in channels), tuple(std)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _sha256(*parts: Data) -> str:
    """The SHA-256 of types, shapes, bytes and normalisation."""
    digest = hashlib.sha256()
    for data in parts:
        for tensor in (data.inputs, data.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        digest.update(repr((data.mean, data.std)).encode())
    return digest.hexdigest()
