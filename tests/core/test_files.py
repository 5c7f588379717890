"""Files that are whole or absent, and records that come back as they were."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import (
    Difference,
    ModelStats,
    Note,
    PassReport,
    PassResult,
    ShrinkResult,
    TensorSpec,
)


def result() -> ShrinkResult:
    size = ModelStats(1, 2, 3, 4)
    difference = Difference(0.0, float("inf"), 1e-5, 2)
    notes = (Note("channels-cut", "a", "taken", "why", 3),)
    reports = (PassReport("p", PassResult(True, notes), 0.5, None),)
    paths = [Path("a.pt"), Path("b.onnx"), Path("c.onnx")]
    found = ("zip", "masks")
    return ShrinkResult(*paths, "x", "y", None, found, size, size, difference, reports, seconds=1.0)


def test_records_survive_json() -> None:
    assert files.from_json(ShrinkResult, files.to_json(result())) == result()
    spec = TensorSpec("x", "float32", ("batch", 3))
    assert files.from_json(TensorSpec, files.to_json(spec)) == spec


def test_notes_that_were_written_before_notes_had_codes() -> None:
    data = json.loads(files.to_json(result()))
    (note,) = data["passes"][0]["result"]["notes"]
    for field in ("code", "of", "figures"):
        del note[field]
    read = files.from_json(ShrinkResult, json.dumps(data))
    assert read.passes[0].result.notes == (Note("unclassified", "a", "taken", "why", 3),)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", '{"type": "Note"}', '{"type": "TensorSpec", "name": 3}', "null"],
)
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a TensorSpec file"):
        files.from_json(TensorSpec, text)


@pytest.mark.parametrize("number", [10**400, 1 << 63])
def test_a_number_beyond_64_bits_is_refused(number: int) -> None:
    data = json.loads(files.to_json(result()))
    data["passes"][0]["seconds"] = number
    with pytest.raises(UserError, match="not a ShrinkResult file of this version"):
        files.from_json(ShrinkResult, json.dumps(data))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_file_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "x").write_text("old")

    def write() -> None:
        with files.atomic_directory(path) as temporary:
            (temporary / "x").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (path / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with files.atomic_directory(path) as temporary:
        (temporary / "y").write_text("new")
    assert [p.name for p in path.iterdir()] == ["y"]
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), files.atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"), files.atomic_path(tmp_path / "file/x"):
        pass
    with pytest.raises(UserError, match="it is a folder"), files.atomic_path(tmp_path):
        pass


@pytest.mark.parametrize("swaps", [True, False])
def test_folder_is_replaced_with_and_without_a_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(files, "RENAME_EXCHANGE", 1 << 20)  # EINVAL, as on old file systems
    path = tmp_path / "a"
    for text in ("one", "two"):
        with files.atomic_directory(path) as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_word_that_is_none_of_those_allowed_is_refused() -> None:
    note = Note("channels-cut", "w", "taken", "channels that are constant", 12)
    text = files.to_json(note)
    assert files.from_json(Note, text) == note
    for wrong in ('"stolen"', "5", "[]"):
        with pytest.raises(UserError):
            files.from_json(Note, text.replace('"taken"', wrong))


def test_a_mapped_file_is_what_was_hashed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"as built")
    expected = files.sha256(path)
    with files.mapped(path, expected) as data:
        path.unlink()
        path.write_bytes(b"of another")  # a new file of this name
        assert bytes(data) == b"as built"
    with pytest.raises(UserError, match="its hash differs"), files.mapped(path, expected):
        pytest.fail("opened")


def test_a_mapped_file_that_is_written_to_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"as built")
    os.utime(path, ns=(0, 0))
    with (
        pytest.raises(UserError, match="was written to while it was opened"),
        files.mapped(path, files.sha256(path)),
        path.open("r+b") as file,
    ):
        file.write(b"b")


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_what_has_no_end_is_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(files.MAX_TEXT + 1)
    with pytest.raises(OSError, match=r"regular|MiB"):
        files.read_small(path)
    if kind != "large":
        with pytest.raises(OSError, match="regular"):
            files.sha256(path)


def test_a_text_is_read_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf{}")
    assert files.read_text(tmp_path / "x") == "{}"
