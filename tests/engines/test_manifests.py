"""Manifests that say what cannot be: one line, or the right outputs, from the real command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import network

import prunedeploy
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import MANIFEST_FORMAT, Manifest

ODD: dict[str, dict[str, Any]] = {
    "threads below zero": {"threads": -5},
    "threads without end": {"threads": 10**30},
    "a batch of none": {"batches": [0]},
    "a batch below zero": {"batches": [-1]},
    "a huge batch": {"batches": [10**12]},
    "no batches": {"batches": []},
    "another instruction set": {"isa": "generic"},
    "no instruction set": {"isa": ""},
    "instructions nobody has": {"isa": "sve9"},
    "another architecture": {"arch": "aarch64"},
    "another runtime": {"runtime": "ort"},
    "no computing runtime": {"runtime": "null"},
    "a runtime that is not here": {"runtime": "tensorrt"},
    "a path for a runtime": {"runtime": "../x"},
    "no outputs": {"outputs": []},
    "no files": {"files": {}},
    "a folder for a file": {"files": {".": "0" * 64}},
    "a name that ends": {"files": {"model.so\0": "0" * 64}},
    "a name that no system takes": {"files": {"x" * 300: "0" * 64}},
    "a hash of nothing": {"files": {"model.so": ""}},
}
SHAPES: tuple[list[Any], ...] = (
    [],
    ["batch"],
    ["batch", 5, 9, 9, 1],
    [2, 5, 9, 9],
    ["batch", "batch", 9, 9],
    ["a", "b", "c", "d"],
    ["batch", 5, 9, -9],
    ["batch", 5, 9, 10**30],
    ["batch", 5, 9, True],
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    model = network(folder / "net.onnx")
    options: dict[str, Any] = {"batch": (1, 2), "tune": "none", "threads": 1}
    return prunedeploy.build(model, runtime="sparse", output=folder / "e", **options).path


Attempt = Callable[[dict[str, Any], np.ndarray], np.ndarray | None]


@pytest.fixture
def attempt(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Attempt:
    """The output of ``run`` with parts of the manifest changed; None where it is refused."""

    def run(changes: dict[str, Any], images: np.ndarray) -> np.ndarray | None:
        folder = tmp_path / "e"
        shutil.copytree(built, folder, dirs_exist_ok=True)
        manifest = json.loads((built / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))
        np.save(tmp_path / "x.npy", images)
        status = main(["run", str(folder), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")])
        said = capsys.readouterr().err.splitlines()
        if status == 0:
            return np.load(tmp_path / "y.npy")
        assert status == 2
        assert len(said) == 1
        assert said[0].isprintable()
        return None

    return run


@pytest.mark.parametrize("what", ODD)
def test_values_that_cannot_be(attempt: Attempt, what: str) -> None:
    images = np.random.default_rng(0).standard_normal((2, 5, 9, 9)).astype(np.float32)
    wanted = attempt({}, images)
    found = attempt(ODD[what], images)
    if what == "no computing runtime":  # which says that it computes nothing
        return
    if found is not None:
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("batches", [[0], [2, -1]], ids=str)
def test_batches_are_counted_from_one(built: Path, tmp_path: Path, batches: list[int]) -> None:
    """Whichever runtime the manifest names: sparse engines know their own, hybrid ones do not."""
    shutil.copytree(built, tmp_path / "e")
    manifest = json.loads((built / "manifest.json").read_text())
    (tmp_path / "e/manifest.json").write_text(json.dumps(manifest | {"batches": batches}))
    with pytest.raises(UserError, match=f"a batch of {min(batches)}"):
        prunedeploy.open(tmp_path / "e")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_that_are_not_the_librarys(attempt: Attempt, built: Path, shape: list[Any]) -> None:
    """The library says what it reads; whatever the manifest lets through is checked again."""
    (spec,) = json.loads((built / "manifest.json").read_text())["inputs"]
    for images in (
        np.ones((2, 5, 9, 9), np.float32),
        np.ones((2, 2, 9, 9), np.float32),
        np.ones(2, np.float32),
        np.float32(1),
    ):
        found = attempt({"inputs": [{**spec, "shape": shape}]}, images)
        assert found is None or (images.shape == (2, 5, 9, 9) and found.shape == (2, 10))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (99, r"built by a newer version .* format 99, this version reads 1 to 3; update it, or"),
        (0, r"built by an older version .* format 0, this version reads 1 to 3; build"),
        ("2", "expected int"),
    ],
)
def test_manifests_of_other_versions(
    built: Path, tmp_path: Path, written: object, message: str
) -> None:
    """With fields that this version does not know: the line is about the version all the same."""
    folder = tmp_path / "e"
    shutil.copytree(built, folder)
    manifest = json.loads((built / "manifest.json").read_text())
    changed = {"format_version": written, **({"shiny": 1} if written == 99 else {})}
    (folder / "manifest.json").write_text(json.dumps(manifest | changed))
    with pytest.raises(UserError, match=message) as caught:
        prunedeploy.open(folder)
    assert "\n" not in str(caught.value)


FIELDS = """runtime target files model_sha256 baseline baseline_sha256 inputs outputs versions
difference batches threads arch isa choice found cross_check sizes format_version"""


def test_another_field_is_another_format() -> None:
    """What earlier versions do not know they have to be told by the number."""
    assert (MANIFEST_FORMAT, [each.name for each in fields(Manifest)]) == (3, FIELDS.split())
