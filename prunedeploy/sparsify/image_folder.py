"""Images in folders: ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array
from prunedeploy.sparsify.arrays import Arrays

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")


def read(path: Path, size: int = 0) -> Arrays:
    """RGB images uint8 [N, 3, H, W]; classes are numbered in the order of their names.

    ``size`` scales each image so that its shorter side has so many pixels, and takes the square
    in the middle; with 0 all images have to be of one size.

    Raises:
        UserError: no images, images of several sizes, or a class that is not in ``train``.
    """
    classes = sorted(each.name for each in (path / "train").iterdir() if each.is_dir())
    if len(classes) < 2:
        raise UserError(f"{path / 'train'} has to have a folder for each class, two at least")
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    test = _part(tests[0], classes, size) if tests else None
    return Arrays(_part(path / "train", classes, size), test)


def _part(folder: Path, classes: list[str], size: int) -> tuple[Array, Array]:
    images, labels = [], []
    for group in sorted(each for each in folder.iterdir() if each.is_dir()):
        if group.name not in classes:
            raise UserError(f"{group} is a class that there is nothing to train on for")
        for file in sorted(each for each in group.iterdir() if each.suffix.lower() in SUFFIXES):
            images.append(_image(file, size))
            labels.append(classes.index(group.name))
            if images[-1].shape != images[0].shape:
                raise UserError(f"{file} has another size than the first image: give data size")
    if not images:
        raise UserError(f"{folder} has no images: known are {', '.join(SUFFIXES)}")
    stacked = np.stack(images).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked), np.array(labels, np.int64)


def _image(file: Path, size: int) -> Array:
    """One image, uint8 [H, W, 3]."""
    library = _pillow()
    try:
        with library.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, library.DecompressionBombError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    if size:
        factor = size / min(image.size)
        width, height = (max(size, round(side * factor)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        scaled = image.resize((width, height), library.Resampling.BICUBIC)
        image = scaled.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("Pillow, which reads images,", "sweep") from None
    return Image
