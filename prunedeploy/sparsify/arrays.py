"""Arrays of labelled data between the readers of files and their users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array

CHANNELS = (1, 3)


@dataclass(frozen=True)
class Arrays:
    """Inputs with labels int64 [N] to train on, and to test on where the files have such.

    Images are [N, C, H, W], uint8 or float32 in [0, 1]; tokens int64 [N, L].
    """

    train: tuple[Array, Array]
    test: tuple[Array, Array] | None


def as_images(images: Array, path: Path) -> Array:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, C, H, W].

    Raises:
        UserError: another shape, or neither uint8 nor floats.
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise UserError(f"{path}: images must be uint8, or floats in [0, 1]: found {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in CHANNELS and images.shape[3] in CHANNELS:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4:
        shape = " x ".join(map(str, images.shape))
        raise UserError(f"{path}: images must be [N, H, W, C] or [N, C, H, W], found {shape}")
    return images if images.dtype == np.uint8 else images.astype(np.float32)
