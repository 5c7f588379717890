"""Files of samples: layouts, draws, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunedeploy import UserError
from prunedeploy.sparsify.oneshot.calibrate import joined
from prunedeploy.sparsify.oneshot.inputs import batched, read_samples


def written(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


def test_images_are_drawn_and_normalised(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)
    path = written(tmp_path, images=images, labels=np.arange(20))
    read = read_samples(path, 8, normalisation=((0.5,) * 3, (0.25,) * 3), seed=3)
    (batch,) = read.batches
    assert isinstance(batch, torch.Tensor)
    assert batch.shape == (8, 3, 4, 5)
    assert read.labels is not None
    pixels = images[read.labels.numpy()].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(batch.numpy(), (pixels - 0.5) / 0.25, atol=1e-6)
    again = read_samples(path, 8, normalisation=((0.5,) * 3, (0.25,) * 3), seed=3)
    assert again.labels is not None
    assert again.labels.tolist() == read.labels.tolist()


def test_arguments_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, input_ids=np.arange(12).reshape(4, 3), attention_mask=np.ones((4, 3)))
    (batch,) = read_samples(path).batches
    assert isinstance(batch, dict)
    assert {name: each.dtype for name, each in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.float32,
    }


def test_batches_fit_and_join() -> None:
    x = torch.randn(700, 8)
    parts = batched(x)
    assert [len(each) for each in parts] == [250, 250, 200]
    assert bool((joined(parts) == x).all())
    assert len(batched({"a": torch.zeros(3, 2_000_000)})) == 3


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"labels": np.arange(3)}, "no inputs"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "no samples"),
        ({"images": np.zeros((3, 4, 4, 3), np.uint8)}, "--mean and --std"),
        ({"images": np.zeros((3, 4, 4, 3, 2), np.uint8)}, "N, H, W, C"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((2, 2))}, "different lengths"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.zeros((3, 2))}, "labels must be"),
        ({"x": np.array(["a", "b"])}, "must be numbers"),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read_samples(written(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_samples(tmp_path / "x.npz")
