"""Labelled images as a network takes them: layout, normalisation, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy.core.arrays import read_arrays
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Engine, TensorSpec


@dataclass(frozen=True)
class Labelled:
    """Images as they were stored, and what turns them into the model's input ``spec``.

    Stored uint8 images are scaled to [0, 1] and normalised by ``mean`` and ``std`` per channel;
    any other dtype is taken as it is.
    """

    images: Array
    labels: Array
    spec: TensorSpec
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Feeds of ``size`` inputs each; the last one is filled up with its first image."""
        for start in range(0, len(self.labels), size):
            images = self.images[start : start + size]
            if missing := size - len(images):
                images = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
            yield {self.spec.name: self._prepared(images)}

    def _prepared(self, images: Array) -> Array:
        arranged = _arrange(images, self.spec)
        if arranged is None:  # ``load`` has looked at the shape of all images
            raise AssertionError(images.shape)
        if self.mean:
            shape = (1, -1) + (1,) * (arranged.ndim - 2)
            mean = np.array(self.mean, np.float32).reshape(shape)
            std = np.array(self.std, np.float32).reshape(shape)
            arranged = (arranged.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(arranged, np.dtype(self.spec.dtype))


def load(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    normalisation: tuple[Sequence[float], Sequence[float]] | None,
) -> Labelled:
    """``images`` and ``labels`` of an .npz file, for a network with the one input ``inputs``.

    Args:
        path: ``images`` of shape [N, H, W, C], [N, C, H, W] or [N, H, W], or whatever else the
            network takes; ``labels`` integers of shape [N].
        inputs: what the network takes.
        normalisation: mean and standard deviation per channel, for uint8 images in [0, 1].

    Raises:
        UserError: unreadable, an array is missing or does not fit, uint8 without normalisation.
    """
    images, labels = read(path)
    if len(inputs) != 1:
        raise UserError(f"{path} has one array of images, the network takes {len(inputs)} inputs")
    spec = inputs[0]
    if images.dtype.kind not in "fiu" or _arrange(images[:1], spec) is None:
        wanted = " x ".join(map(str, spec.shape))
        shape = " x ".join(map(str, images.shape))
        raise UserError(f"{path}: the network takes {wanted}, found {images.dtype} {shape}")
    if images.dtype != np.uint8 or spec.dtype == "uint8":
        return Labelled(images, labels, spec)
    if normalisation is None:
        raise UserError(
            f"{path} has uint8 images and how this network normalises them is not known: "
            "give mean and std, or store float32 images as the network takes them"
        )
    mean, std = (tuple(map(float, values)) for values in normalisation)
    arranged = _arrange(images[:1], spec)
    channels = arranged.shape[1] if arranged is not None else 0
    if len(mean) not in (1, channels) or len(mean) != len(std) or not all(std):
        raise UserError(f"mean and std must be 1 or {channels} numbers each, std not zero")
    if not np.isfinite([*mean, *std]).all():
        raise UserError("mean and std must be finite numbers")
    return Labelled(images, labels, spec, mean, std)


def normalisation_of(engine: Engine) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and std of the network as ``shrink`` recorded them; None when they are not known."""
    from prunedeploy.engines.sources import shrink_result_of

    result = shrink_result_of(engine)
    return (result.mean, result.std) if result is not None and result.mean else None


def read(path: Path) -> tuple[Array, Array]:
    """``images`` and ``labels`` of an .npz file, for whatever network.

    Raises:
        UserError: unreadable, an array is missing or is not what its name says.
    """
    data = read_arrays(path)
    if isinstance(data, np.ndarray):
        raise UserError(f"cannot read {path}: it must be an .npz file of plain arrays")
    if missing := [name for name in ("images", "labels") if name not in data]:
        raise UserError(f"{path} has no array {missing[0]!r}: it needs images and labels")
    images, labels = data["images"], data["labels"]
    if (
        not images.ndim
        or labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or len(labels) != len(images)
    ):
        raise UserError(
            f"{path}: labels must be one integer an image, found {labels.dtype} {labels.shape} "
            f"for images {images.shape}"
        )
    if not len(labels):
        raise UserError(f"{path} holds no images")
    return images, labels


def _arrange(images: Array, spec: TensorSpec) -> Array | None:
    """``images`` in the model's layout: as they are, with a channel axis, or channels first."""
    candidates = [images]
    if images.ndim == 3:
        candidates.append(images[:, None])
    if images.ndim == 4:
        candidates.append(images.transpose(0, 3, 1, 2))
    for candidate in candidates:
        if candidate.ndim == len(spec.shape) and all(
            size == dim or isinstance(dim, str)
            for size, dim in zip(candidate.shape[1:], spec.shape[1:], strict=True)
        ):
            return candidate
    return None
