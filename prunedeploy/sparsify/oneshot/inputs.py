"""Inputs to calibrate on, from a NumPy file, as the network takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunedeploy.core.arrays import read_arrays
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.sparsify.arrays import as_images
from prunedeploy.sparsify.oneshot.calibrate import Inputs
from prunedeploy.sparsify.trainer import Data

Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and deviation of each channel

SAMPLES = 1000  # drawn by default
BATCH, ELEMENTS = 250, 1 << 20  # the most samples, and numbers, of a batch
LABELS = "labels"


@dataclass(frozen=True)
class Samples:
    """What a network is calibrated on, and labels int64 [N] where the file has such."""

    batches: tuple[Inputs, ...]
    labels: Tensor | None


def read_samples(
    path: str | Path,
    count: int = SAMPLES,
    *,
    normalisation: Normalisation | None = None,
    seed: int = 0,
) -> Samples:
    """Draw ``count`` samples from an .npz file, or all of them where it has no more.

    Args:
        path: ``images`` [N, H, W, C], [N, C, H, W] or [N, H, W]; or ``tokens`` [N, L]; or arrays by
            the names of the network's arguments, as ``input_ids`` and ``attention_mask``, each
            [N, ...]. ``labels`` are kept beside. A .npy file holds the only input.
        count: of samples.
        normalisation: mean and deviation of each channel of pixels in [0, 1]; uint8 images need
            them, floats are taken as they are.
        seed: of the draw.

    Raises:
        UserError: unreadable, empty, arrays of different lengths, or uint8 images and no
            normalisation.
    """
    path = Path(path)
    content = read_arrays(path)
    arrays = {"images": content} if isinstance(content, np.ndarray) else dict(content)
    labels = arrays.pop(LABELS, None)
    arrays = {name: each for name, each in arrays.items() if not name.startswith("test_")}
    total = _length(path, arrays, labels)
    if count < 1:
        raise UserError(f"calibration needs at least one sample, not {count}")
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    if set(arrays) == {"images"}:
        inputs: Inputs = _images(path, arrays["images"][drawn], normalisation)
    elif set(arrays) == {"tokens"}:
        inputs = torch.from_numpy(arrays["tokens"][drawn].astype(np.int64))
    else:
        inputs = {name: _tensor(path, name, each[drawn]) for name, each in arrays.items()}
    kept = None if labels is None else torch.from_numpy(labels[drawn].astype(np.int64))
    return Samples(tuple(batched(inputs)), kept)


def batched(inputs: Inputs) -> list[Inputs]:
    """``inputs`` in batches that fit the memory of calibration."""
    tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
    each = max(1, *(tensor[0].numel() for tensor in tensors))
    size = max(1, min(BATCH, ELEMENTS // each))
    starts = range(0, len(tensors[0]), size)
    if isinstance(inputs, Tensor):
        return [inputs[at : at + size] for at in starts]
    return [{name: each[at : at + size] for name, each in inputs.items()} for at in starts]


def _length(path: Path, arrays: Mapping[str, Array], labels: Array | None) -> int:
    """How many samples there are."""
    if not arrays:
        raise UserError(f"{path} has no inputs: it needs an array images, or the inputs by name")
    every = {**arrays, **({} if labels is None else {LABELS: labels})}
    lengths = {name: each.shape[0] if each.ndim else 0 for name, each in every.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{path} has arrays of different lengths ({sizes}): give one row a sample")
    total = next(iter(lengths.values()))
    if not total:
        raise UserError(f"{path} holds no samples")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise UserError(f"{path}: labels must be one integer for each sample")
    return total


def _images(path: Path, images: Array, normalisation: Normalisation | None) -> Tensor:
    if images.dtype.kind == "f" and images.ndim != 4:
        return torch.from_numpy(images.astype(np.float32))
    arranged = torch.from_numpy(np.ascontiguousarray(as_images(images, path)))
    if images.dtype != np.uint8:
        return arranged
    if normalisation is None:
        raise UserError(
            f"{path} has uint8 images and how this network normalises them is not known: "
            "give --mean and --std, or store float32 images as the network takes them"
        )
    mean, std = (tuple(map(float, values)) for values in normalisation)
    channels = arranged.shape[1]
    if len(mean) not in (1, channels) or len(mean) != len(std) or not all(std):
        raise UserError(f"mean and std must be 1 or {channels} numbers each, std not zero")
    return Data(arranged, torch.empty(0), mean, std).normalised(arranged)


def _tensor(path: Path, name: str, array: Array) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name} must be numbers, found {array.dtype}")
    kind = {"f": np.float32, "i": np.int64, "u": np.int64}.get(array.dtype.kind, array.dtype)
    return torch.from_numpy(array.astype(kind))
