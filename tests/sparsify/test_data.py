"""Data: the usual files read without code, splits that do not meet, and a hash of all."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.data import load

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 3072), np.uint8)
LABELS = [int(x) for x in RANDOM.integers(0, 10, 60)]


def pickled(rows: slice, key: bytes) -> bytes:
    return pickle.dumps({b"data": PIXELS[rows], key: LABELS[rows]}, protocol=2)


def records(rows: slice, coarse: bool) -> bytes:
    labels = np.array(LABELS[rows], np.uint8)[:, None]
    columns = [np.full_like(labels, 7), labels] if coarse else [labels]
    return np.concatenate([*columns, PIXELS[rows]], axis=1).tobytes()


CIFARS: dict[str, Callable[[], dict[str, bytes]]] = {
    "cifar-10-batches-py": lambda: {
        "data_batch_1": pickled(slice(0, 25), b"labels"),
        "data_batch_2": pickled(slice(25, 50), b"labels"),
        "test_batch": pickled(slice(50, 60), b"labels"),
        "batches.meta": b"not read",
    },
    "cifar-100-python": lambda: {
        "train": pickled(slice(0, 50), b"fine_labels"),
        "test": pickled(slice(50, 60), b"fine_labels"),
    },
    "cifar-10-batches-bin": lambda: {
        "data_batch_1.bin": records(slice(0, 50), False),
        "test_batch.bin": records(slice(50, 60), False),
    },
    "cifar-100-binary": lambda: {
        "train.bin": records(slice(0, 50), True),
        "test.bin": records(slice(50, 60), True),
    },
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", CIFARS)
@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_all_files_of_cifar_give_the_same_images(name: str, form: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data" / name, CIFARS[name]())
    path = folder if form == "folder" else folder.parent
    if form == "archive":
        path = tmp_path / "data.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, name)
    splits = load(path, hold_out=0)
    assert torch.equal(splits.train.inputs, torch.from_numpy(PIXELS[:50].reshape(-1, 3, 32, 32)))
    assert splits.train.labels.tolist() == LABELS[:50]
    assert splits.test.labels.tolist() == LABELS[50:]
    assert torch.equal(splits.test.inputs.flatten(1), torch.from_numpy(PIXELS[50:]))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2), "would run code"),
        (pickle.dumps({b"data": PIXELS[:3], b"labels": [1, 2]}, protocol=2), "no label for each"),
        (pickle.dumps({b"data": PIXELS[:3, :9], b"labels": [1] * 3}, protocol=2), "no images"),
        (b"\x80\x02garbage", "cannot read"),
    ],
)
def test_a_pickle_that_is_no_cifar_is_refused(content: bytes, said: str, folder: Path) -> None:
    files = {"data_batch_1": content, "test_batch": content}
    with pytest.raises(UserError, match=said):
        load(write(folder / "bad", files))
    assert not (folder / "ran").exists()


def test_a_binary_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    files = CIFARS["cifar-10-batches-bin"]()
    files["test_batch.bin"] = files["test_batch.bin"][:-1]
    with pytest.raises(UserError, match="cut short"):
        load(write(tmp_path / "cut", files))


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


IMAGES = PIXELS.reshape(60, 32, 32, 3)


def test_an_npz_may_have_channels_last_or_none(tmp_path: Path) -> None:
    labels = np.array(LABELS)
    both = npz(
        tmp_path / "both.npz",
        images=IMAGES[:50],
        labels=labels[:50],
        test_images=IMAGES[50:],
        test_labels=labels[50:],
    )
    one = npz(tmp_path / "train.npz", images=IMAGES[:50].transpose(0, 3, 1, 2), labels=labels[:50])
    two = npz(tmp_path / "test.npz", images=IMAGES[50:], labels=labels[50:])
    splits = load(both)
    assert splits.sample == (3, 32, 32)
    assert splits.sha256 == load(one, two).sha256
    grey = npz(tmp_path / "grey.npz", images=IMAGES[..., 0], labels=labels)
    assert load(grey, grey).sample == (1, 32, 32)
    with pytest.raises(UserError, match="no test data"):
        load(one)
    with pytest.raises(UserError, match="another shape"):
        load(one, grey)


def test_tokens_are_taken_as_they_are(tmp_path: Path) -> None:
    tokens = RANDOM.integers(0, 100, (20, 7))
    path = npz(tmp_path / "t.npz", tokens=tokens, labels=np.arange(20) % 2)
    splits = load(path, path, hold_out=0)
    assert splits.train.inputs.dtype == torch.int64
    assert splits.train.normalised(splits.train.inputs).tolist() == tokens.tolist()
    assert splits.train.mean == ()


def test_splits_do_not_meet_and_are_the_same_each_time() -> None:
    first, again = load("digits"), load("digits")
    assert (len(first.train.labels), len(first.selection.labels)) == (1294, 143)
    assert first.sha256 == again.sha256
    rows = [set(map(tuple, part.inputs.flatten(1).tolist())) for part in (first.train, first.test)]
    assert len(rows[0] & rows[1]) < 3  # digits that two people wrote alike
    limited = load("digits", limit=500)
    assert len(limited.train.labels) == 500
    assert torch.equal(limited.selection.inputs, first.selection.inputs)
    assert limited.sha256 != first.sha256
    images = first.train.normalised(first.train.inputs)
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std()) - 1) < 1e-3


def test_the_hash_changes_with_one_pixel_label_or_mean(tmp_path: Path) -> None:
    arrays = {"images": IMAGES.copy(), "labels": np.array(LABELS)}
    base = npz(tmp_path / "base.npz", **arrays)
    hashes = {load(base, base).sha256, load(base, base, mean=(0.5,) * 3, std=(0.5,) * 3).sha256}
    arrays["images"][0, 0, 0, 0] ^= 1
    changed = npz(tmp_path / "changed.npz", **arrays)
    hashes.add(load(changed, base).sha256)
    arrays["labels"][0] = (arrays["labels"][0] + 1) % 10
    changed = npz(tmp_path / "labels.npz", **arrays)
    hashes.add(load(changed, base).sha256)
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hold_out": 1437}, "leaves none"),
        ({"limit": 2000}, "left: limit is 2000"),
        ({"mean": (0.5,), "std": (0.0,)}, "std positive"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "1 numbers each"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load("digits", **options)  # type: ignore[arg-type]


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match="none of the known formats"):
        load(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="none of the known formats"):
        load(tmp_path / "x.tar.gz")


def test_a_folder_of_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for part, count in (("train", 6), ("val", 2)):
        for index in range(count):
            folder = tmp_path / part / ("cat", "dog")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image.fromarray(IMAGES[index]).save(folder / f"{index}.png")
    splits = load(tmp_path, hold_out=0)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    order = [0, 2, 4, 1, 3, 5]
    wanted = torch.from_numpy(IMAGES[order].transpose(0, 3, 1, 2).copy())
    assert torch.equal(splits.train.inputs, wanted)
    assert splits.classes == 2
    assert load(tmp_path, hold_out=0, size=16).sample == (3, 16, 16)
    image.fromarray(IMAGES[0, :20]).save(tmp_path / "train" / "cat" / "small.png")
    with pytest.raises(UserError, match="another size"):
        load(tmp_path)
    buffer = io.BytesIO(b"\x89PNG no")
    (tmp_path / "train" / "cat" / "small.png").write_bytes(buffer.read())
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)


def test_real_cifar(real_data: Path) -> None:
    splits = load(
        real_data / "cifar10_train50k_lossless.npz", real_data / "cifar10_test1k_lossless.npz"
    )
    counts = [len(part.labels) for part in (splits.train, splits.selection, splits.test)]
    assert counts == [45_000, 5_000, 1_000]
    assert splits.classes == 10
    assert np.allclose(splits.train.mean, (0.491, 0.482, 0.447), atol=2e-3)
