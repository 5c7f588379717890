"""Engines on disk: read, damaged, moved, replaced and opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.engines import building, engine_folder, opening
from prunedeploy.reference.drawing import random_feeds


def run(engine, **options):
    with opening.open(engine, **options) as session:
        return session.run(random_feeds(session.inputs, 3))["output"]


def test_an_engine_is_replaced(folder, shrunk, leftovers):
    first = building.build("out.onnx", output="e", runtime="ort")
    second = building.build("out.dense.onnx", output="e", runtime="ort")
    assert engine_folder.read_engine("e") == second != first
    assert not leftovers(folder)


def _foreign(folder: Path) -> None:
    (folder / "e").mkdir()
    (folder / "e" / "manifest.json").write_text('{"files": {}}')


def _note(folder: Path) -> None:
    building.build("out.onnx", output="e", runtime="ort")
    (folder / "e" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "e").mkdir(), "is not an engine"),
        (lambda f: (f / "e").write_text("x"), "a file of that name"),
        (lambda f: (f / "e").symlink_to(f), "symbolic link"),
        (_note, "notes.txt"),
        (_foreign, "not an engine"),
    ],
)
def test_what_is_not_an_engine_is_not_replaced(folder, shrunk, prepare, message):
    prepare(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=message):
        building.build("out.onnx", output="e", runtime="ort")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_to_any_file_is_found(folder, shrunk, name, damage):
    building.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x80
    if damage == "remove":
        file.unlink()
    else:
        size = len(data)
        file.write_bytes({"flip": data, "cut": data[: size // 2], "empty": b""}[damage])
    with pytest.raises(UserError) as caught:
        opening.open("e")
    assert "\n" not in str(caught.value)


def test_the_engine_hash_is_that_of_its_manifest(folder, shrunk):
    """Digits changed inside a manifest stay a manifest; the hash of the engine tells them apart."""
    engine = building.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / "manifest.json"
    assert engine.sha256 == sha256(file)
    file.write_text(file.read_text().replace('"target": "host"', '"target": "tost"'))
    assert engine_folder.read_engine("e").sha256 != engine.sha256


@pytest.mark.parametrize("name", ["../out.onnx", "/etc/passwd"])
def test_a_manifest_may_not_name_files_outside(folder, shrunk, name):
    building.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / "manifest.json"
    data = json.loads(file.read_text())
    data["files"][name] = "0" * 64
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="is not an engine"):
        engine_folder.read_engine("e")


@pytest.mark.parametrize(
    ("path", "message"),
    [("none", "does not exist"), ("out.onnx", "is a file"), (".", "is not an engine")],
)
def test_what_is_not_an_engine_is_not_opened(folder, shrunk, path, message):
    with pytest.raises(UserError, match=message):
        opening.open(path)


def test_threads_below_zero(folder, shrunk):
    engine = building.build("out.onnx", runtime="ort")
    with pytest.raises(UserError, match="-1 threads"):
        opening.open(engine, threads=-1)


def test_an_engine_that_moved_still_runs(folder, shrunk):
    building.build("out.onnx", output="e", runtime="ort")
    expected = run("e")
    (folder / "far").mkdir()
    shutil.move("e", "far/e")
    np.testing.assert_array_equal(run("far/e"), expected)


def test_opening_imports_neither_torch_nor_onnx(folder, shrunk):
    building.build("out.onnx", output="e", runtime="ort")
    code = (
        "import sys; from prunedeploy.engines import opening\n"
        "with opening.open('e') as s: print(s.provider)\n"
        "print([m for m in ('torch', 'onnx', 'onnx_ir') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == ["CPUExecutionProvider", "[]"]
    assert result.stderr == ""


def test_an_engine_whose_loader_was_imported_is_replaced(folder, shrunk):
    """Python leaves a cache beside session.py."""
    building.build("out.onnx", output="e", runtime="ort")
    (folder / "e" / "__pycache__").mkdir()
    (folder / "e" / "__pycache__" / "session.cpython-311.pyc").write_bytes(b"")
    building.build("out.onnx", output="e", runtime="ort")
    assert not (folder / "e" / "__pycache__").exists()
