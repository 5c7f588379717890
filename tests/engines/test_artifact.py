from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from signals import listen

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256, to_json
from prunedeploy.engines import artifact
from prunedeploy.reference.verify import random_feeds
from prunedeploy.runtimes.ort.cpu import PAYLOAD, Ort, OrtSession


def run(engine, **options):
    with artifact.open(engine, **options) as session:
        return session.run(random_feeds(session.inputs, 3))["output"]


def test_a_built_engine_computes_what_the_model_does(folder, shrunk):
    engine = artifact.build(shrunk.model, runtime="ort")
    assert str(engine.path) == "out.host.ort.engine"
    manifest = engine.manifest
    assert manifest.difference is not None
    assert manifest.difference.passed
    assert manifest.model_sha256 == shrunk.model_sha256 == manifest.files["model.onnx"]
    assert {"python", "prunedeploy", "onnx", "numpy", "onnxruntime"} == set(manifest.versions)
    assert artifact.read_engine(engine.path) == engine
    with artifact.open(engine.path, threads=1) as session:
        assert session.provider == "CPUExecutionProvider"
        feeds = random_feeds(session.inputs, 3)
        found = session.run(feeds)["output"]
    from prunedeploy.reference.evaluate import Evaluator

    np.testing.assert_allclose(
        found, Evaluator(shrunk.model).run(feeds)["output"], rtol=1e-5, atol=1e-5
    )


def test_without_a_model_the_newest_result_is_taken_and_named(folder, shrunk, write_network):
    write_network(folder / "plain.onnx", 4)  # newer, but no result of shrink
    (folder / "plain.json").write_text("[1, 2]")
    (folder / "other.json").write_bytes(b"\xff\xfe")
    said: list[str] = []
    engine = artifact.build(progress=said.append, runtime="ort")
    assert engine.manifest.model_sha256 == shrunk.model_sha256
    assert "out.onnx" in said[0]
    shutil.copy("out.onnx", "newer.onnx")
    shutil.copy("out.json", "newer.json")
    os.utime("newer.json", ns=(2**62, 2**62))
    assert artifact.newest_result(Path()) == Path("newer.onnx")


def test_without_a_model_and_without_a_result(folder):
    with pytest.raises(UserError, match="no result of `prunedeploy shrink`"):
        artifact.build(runtime="ort")


def test_the_dense_baseline_comes_from_the_record_beside_the_model(folder, shrunk):
    (folder / "deep").mkdir()
    engine = artifact.build("out.onnx", output="deep/e", runtime="ort")
    assert engine.manifest.baseline == "../../out.dense.onnx"
    assert artifact.baseline_of(engine) == shrunk.dense
    assert artifact.shrink_result_of(engine) == shrunk
    shrunk.dense.write_bytes(b"other")
    with pytest.raises(UserError, match="is not the dense baseline any more"):
        artifact.baseline_of(engine)
    shrunk.dense.unlink()
    with pytest.raises(UserError, match="is gone"):
        artifact.baseline_of(engine)


def test_a_dense_model_of_any_name_and_place_is_found(folder, shrunk):
    """Of an ONNX file that was shrunk, the dense model is that file itself."""
    (folder / "far").mkdir()
    dense = shrunk.dense.rename(folder / "far" / "source.onnx")
    record = dataclasses.replace(shrunk, dense=dense)
    (folder / "out.json").write_text(to_json(record))
    assert artifact.baseline_of(artifact.build("out.onnx", output="e", runtime="ort")) == dense
    dense.rename(folder / "source.onnx")  # moved along with the model
    moved = artifact.build("out.onnx", output="e", runtime="ort")
    assert artifact.baseline_of(moved) == folder / "source.onnx"


def test_a_dense_model_that_is_gone_is_said(folder, shrunk):
    shrunk.dense.unlink()
    said: list[str] = []
    assert artifact.build("out.onnx", progress=said.append, runtime="ort").manifest.baseline is None
    assert any("out.dense.onnx is not what shrink wrote" in line for line in said)


def test_a_baseline_that_was_named_counts(folder, shrunk):
    engine = artifact.build("out.dense.onnx", baseline="out.onnx", runtime="ort")
    assert artifact.baseline_of(engine) == shrunk.model
    with pytest.raises(UserError, match="no such baseline"):
        artifact.build("out.onnx", baseline="none.onnx", runtime="ort")


def test_a_record_of_another_model_gives_no_baseline_and_says_so(folder, shrunk, write_network):
    write_network(shrunk.model, 5)
    said: list[str] = []
    engine = artifact.build("out.onnx", progress=said.append, runtime="ort")
    assert engine.manifest.baseline is None
    assert artifact.shrink_result_of(engine) is None
    assert any("no dense baseline" in line for line in said)


def test_an_engine_is_replaced(folder, shrunk, leftovers):
    first = artifact.build("out.onnx", output="e", runtime="ort")
    second = artifact.build("out.dense.onnx", output="e", runtime="ort")
    assert artifact.read_engine("e") == second != first
    assert not leftovers(folder)


def _foreign(folder: Path) -> None:
    (folder / "e").mkdir()
    (folder / "e" / "manifest.json").write_text('{"files": {}}')


def _note(folder: Path) -> None:
    artifact.build("out.onnx", output="e", runtime="ort")
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
        artifact.build("out.onnx", output="e", runtime="ort")
    assert sorted(folder.rglob("*")) == before


class Wrong(OrtSession):
    """Off by a ten-thousandth of the range: ten times what is allowed."""

    def run(self, feeds):
        found = super().run(feeds)
        return {name: array + 1e-4 * np.ptp(array) for name, array in found.items()}


def _open_wrong(self, engine, options):
    manifest = engine.manifest
    return Wrong(engine.path / PAYLOAD, manifest.inputs, manifest.outputs, options)


def test_an_engine_that_computes_something_else_is_refused(folder, shrunk, monkeypatch, leftovers):
    kept = artifact.build("out.onnx", output="e", runtime="ort")
    monkeypatch.setattr(Ort, "open", _open_wrong)
    with pytest.raises(UserError, match="computes something else"):
        artifact.build("out.dense.onnx", output="e", runtime="ort")
    assert artifact.read_engine("e") == kept
    assert not leftovers(folder)


@pytest.mark.parametrize(
    "failure", [RuntimeError("broken"), KeyboardInterrupt(), OSError(28, "no")]
)
def test_a_build_that_raises_leaves_the_previous_engine(
    folder, shrunk, monkeypatch, leftovers, failure
):
    kept = artifact.build("out.onnx", output="e", runtime="ort")

    def fail(self, model, target, directory, options):
        (directory / "half").write_text("half")
        raise failure

    monkeypatch.setattr(Ort, "build", fail)
    expected = UserError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        artifact.build("out.dense.onnx", output="e", runtime="ort")
    assert artifact.read_engine("e") == kept
    assert not leftovers(folder)


BUILD = """
import sys, time
from prunedeploy import artifact
from prunedeploy.errors import UserError
from prunedeploy.runtimes.ort import Ort
real = Ort.build
def slow(self, model, target, directory, options):
    files = real(self, model, target, directory, options)
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return files
Ort.build = slow
try:
    artifact.build(sys.argv[1], output="e", runtime="ort")
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


def start(
    model: str, seconds: float, prepare: Callable[[], None] = listen
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, model, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def test_ctrl_c_in_the_middle_of_a_build(folder, shrunk, leftovers):
    kept = artifact.build("out.onnx", output="e", runtime="ort")
    child = start("out.dense.onnx", 60)
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n"
    assert leftovers(folder)  # it is really in the middle
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode != 0
    assert artifact.read_engine("e") == kept
    assert not leftovers(folder)


def test_two_builds_at_once_into_one_place(folder, shrunk, leftovers):
    artifact.build("out.onnx", output="e", runtime="ort")
    children = [start(model, 0.2) for model in ("out.onnx", "out.dense.onnx")]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert 0 in [child.returncode for child in children], errors
    assert "Traceback" not in "".join(errors)
    engine = artifact.read_engine("e")
    assert engine.manifest.model_sha256 in (shrunk.model_sha256, shrunk.dense_sha256)
    assert run(engine).shape == (3, 10)
    assert not leftovers(folder)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, shrunk, leftovers):
    kept = artifact.build("out.onnx", output="e", runtime="ort")

    def limit() -> None:  # no file may grow beyond 100 bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    child = start("out.dense.onnx", 0, limit)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.count("\n") == 1
    assert error.startswith("UserError: cannot write e: ")
    assert artifact.read_engine("e") == kept
    assert not leftovers(folder)


@pytest.mark.parametrize("place", ["/sys/engine", "missing/engine"])
def test_a_folder_that_cannot_be_written(folder, shrunk, place):
    with pytest.raises(UserError, match="cannot write") as caught:
        artifact.build("out.onnx", output=place, runtime="ort")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_to_any_file_is_found(folder, shrunk, name, damage):
    artifact.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x80
    if damage == "remove":
        file.unlink()
    else:
        size = len(data)
        file.write_bytes({"flip": data, "cut": data[: size // 2], "empty": b""}[damage])
    with pytest.raises(UserError) as caught:
        artifact.open("e")
    assert "\n" not in str(caught.value)


def test_the_engine_hash_is_that_of_its_manifest(folder, shrunk):
    """Digits changed inside a manifest stay a manifest; the hash of the engine tells them apart."""
    engine = artifact.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / "manifest.json"
    assert engine.sha256 == sha256(file)
    file.write_text(file.read_text().replace('"target": "host"', '"target": "tost"'))
    assert artifact.read_engine("e").sha256 != engine.sha256


@pytest.mark.parametrize("name", ["../out.onnx", "/etc/passwd"])
def test_a_manifest_may_not_name_files_outside(folder, shrunk, name):
    artifact.build("out.onnx", output="e", runtime="ort")
    file = folder / "e" / "manifest.json"
    data = json.loads(file.read_text())
    data["files"][name] = "0" * 64
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="is not an engine"):
        artifact.read_engine("e")


@pytest.mark.parametrize(
    ("path", "message"),
    [("none", "does not exist"), ("out.onnx", "is a file"), (".", "is not an engine")],
)
def test_what_is_not_an_engine_is_not_opened(folder, shrunk, path, message):
    with pytest.raises(UserError, match=message):
        artifact.open(path)


def test_threads_below_zero(folder, shrunk):
    engine = artifact.build("out.onnx", runtime="ort")
    with pytest.raises(UserError, match="-1 threads"):
        artifact.open(engine, threads=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "none.onnx"}, "no such model"),
        ({"model": "out.json"}, "as ONNX"),
        ({"target": "jetson"}, "jetson-nano is not at hand"),
        ({"target": "jetsn"}, "did you mean jetson"),
        ({"runtime": "tvm"}, "no runtime 'tvm' yet"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(folder, shrunk, options, message):
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        artifact.build(**{"model": "out.onnx", "runtime": "ort", **options})
    assert "\n" not in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_an_unknown_operator_is_named(folder):
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="my")
    x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("my", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), "odd.onnx")
    with pytest.raises(UserError, match="Frobnicate") as caught:
        artifact.build("odd.onnx", runtime="ort")
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == [folder / "odd.onnx"]


def test_weights_in_a_file_beside_the_model_move_along(folder, shrunk):
    model = onnx.load("out.onnx")
    (folder / "far").mkdir()
    onnx.save(model, "far/ext.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert (folder / "far" / "w.bin").stat().st_size
    artifact.build("far/ext.onnx", output="e", runtime="ort")
    shutil.rmtree("far")
    expected = run(artifact.build("out.onnx", output="plain", runtime="ort"))
    np.testing.assert_array_equal(run("e"), expected)


def test_a_baseline_whose_weights_are_gone_is_none(folder, shrunk):
    dense = onnx.load(shrunk.dense)
    (folder / "far").mkdir()
    beside = {"save_as_external_data": True, "size_threshold": 0, "location": "w.bin"}
    onnx.save(dense, "far/dense.onnx", **beside)
    engine = artifact.build("out.onnx", baseline="far/dense.onnx", output="e", runtime="ort")
    assert artifact.baseline_of(engine) is not None
    (folder / "far" / "w.bin").unlink()
    with pytest.raises(UserError, match="is not the dense baseline any more"):
        artifact.baseline_of(engine)


def test_an_engine_that_moved_still_runs(folder, shrunk):
    artifact.build("out.onnx", output="e", runtime="ort")
    expected = run("e")
    (folder / "far").mkdir()
    shutil.move("e", "far/e")
    np.testing.assert_array_equal(run("far/e"), expected)


def test_the_null_engine_is_never_compared(folder, shrunk):
    engine = artifact.build("out.onnx", runtime="null")
    assert engine.manifest.difference is None
    assert not run(engine).any()


def test_opening_imports_neither_torch_nor_onnx(folder, shrunk):
    artifact.build("out.onnx", output="e", runtime="ort")
    code = (
        "import sys; from prunedeploy import artifact\n"
        "with artifact.open('e') as s: print(s.provider)\n"
        "print([m for m in ('torch', 'onnx', 'onnx_ir') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == ["CPUExecutionProvider", "[]"]
    assert result.stderr == ""
