from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.measure.labelled import load

COLOUR = (TensorSpec("input", "float32", ("batch", 3, 4, 5)),)
GREY = (TensorSpec("input", "float32", ("batch", 1, 4, 5)),)
NORMAL = ((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(7)


def save(folder: Path, **arrays) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def joined(found, size: int) -> np.ndarray:
    batches = [feeds["input"] for feeds in found.batches(size)]
    assert {len(batch) for batch in batches} == {size}
    return np.concatenate(batches)[: len(found.labels)]


@pytest.mark.parametrize("size", [1, 3, 7, 10])
@pytest.mark.parametrize("first", [False, True])
def test_pixels_become_normalised_planes(tmp_path, size, first):
    expected = ((PIXELS / 255 - NORMAL[0]) / NORMAL[1]).transpose(0, 3, 1, 2)
    stored = PIXELS.transpose(0, 3, 1, 2) if first else PIXELS
    found = load(save(tmp_path, images=stored, labels=LABELS), COLOUR, NORMAL)
    array = joined(found, size)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected, atol=1e-6)


def test_float_images_are_taken_as_they_are(tmp_path):
    images = np.random.default_rng(0).standard_normal((7, 3, 4, 5)).astype(np.float32)
    found = load(save(tmp_path, images=images, labels=LABELS), COLOUR, NORMAL)
    np.testing.assert_array_equal(joined(found, 2), images)


def test_grey_images_get_their_channel(tmp_path):
    grey = PIXELS[..., 0]
    found = load(save(tmp_path, images=grey, labels=LABELS), GREY, ((0.0,), (1.0,)))
    np.testing.assert_allclose(joined(found, 2)[:, 0], grey / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "no array 'labels'"),
        ({"labels": LABELS}, "no array 'images'"),
        ({"images": PIXELS, "labels": LABELS[:3]}, "one integer an image"),
        ({"images": PIXELS, "labels": LABELS / 2}, "one integer an image"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "no images"),
        ({"images": PIXELS[:, :3], "labels": LABELS}, "takes batch x 3 x 4 x 5"),
        ({"images": np.array([{}] * 7), "labels": LABELS}, r"cannot read .*\.npz: Object arrays"),
        ({"images": np.float32(1), "labels": LABELS}, r"one integer an image, .* images \(\)"),
        ({"images": PIXELS, "labels": np.int64(1)}, "one integer an image"),
    ],
)
def test_files_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        load(save(tmp_path, **arrays), COLOUR, NORMAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04cut"])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        load(path, COLOUR, NORMAL)


def test_a_file_that_is_cut_short(tmp_path):
    path = save(tmp_path, images=PIXELS, labels=LABELS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot read"):
        load(path, COLOUR, NORMAL)


def test_pixels_without_a_known_normalisation(tmp_path):
    path = save(tmp_path, images=PIXELS, labels=LABELS)
    with pytest.raises(UserError, match="give mean and std"):
        load(path, COLOUR, None)
    with pytest.raises(UserError, match="1 or 3 numbers"):
        load(path, COLOUR, ((0.5, 0.5), (0.5, 0.5)))
    with pytest.raises(UserError, match="std not zero"):
        load(path, COLOUR, ((0.5,), (0.0,)))
    with pytest.raises(UserError, match="finite"):
        load(path, COLOUR, ((0.5,), (float("nan"),)))


def test_several_inputs(tmp_path):
    path = save(tmp_path, images=PIXELS, labels=LABELS)
    with pytest.raises(UserError, match="takes 2 inputs"):
        load(path, COLOUR * 2, NORMAL)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.npz", COLOUR, NORMAL)
