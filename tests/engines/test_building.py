"""Building engines: checked against the model, written at once or not at all."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from signals import listen

from prunedeploy.core.errors import UserError
from prunedeploy.engines import building, engine_folder, opening
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.ort.cpu import PAYLOAD, Ort, OrtSession


def run(engine, **options):
    with opening.open(engine, **options) as session:
        return session.run(random_feeds(session.inputs, 3))["output"]


def test_a_built_engine_computes_what_the_model_does(folder, shrunk):
    engine = building.build(shrunk.model, runtime="ort")
    assert str(engine.path) == "out.host.ort.engine"
    manifest = engine.manifest
    assert manifest.difference is not None
    assert manifest.difference.passed
    assert manifest.model_sha256 == shrunk.model_sha256 == manifest.files["model.onnx"]
    assert {"python", "prunedeploy", "onnx", "numpy", "onnxruntime"} == set(manifest.versions)
    assert engine_folder.read_engine(engine.path) == engine
    with opening.open(engine.path, threads=1) as session:
        assert session.provider == "CPUExecutionProvider"
        feeds = random_feeds(session.inputs, 3)
        found = session.run(feeds)["output"]
    from prunedeploy.reference.evaluate import Evaluator

    np.testing.assert_allclose(
        found, Evaluator(shrunk.model).run(feeds)["output"], rtol=1e-5, atol=1e-5
    )


class Wrong(OrtSession):
    """Off by a ten-thousandth of the range: ten times what is allowed."""

    def run(self, feeds):
        found = super().run(feeds)
        return {name: array + 1e-4 * np.ptp(array) for name, array in found.items()}


def _open_wrong(self, engine, options):
    manifest = engine.manifest
    return Wrong(engine.path / PAYLOAD, manifest.inputs, manifest.outputs, options)


def test_an_engine_that_computes_something_else_is_refused(folder, shrunk, monkeypatch, leftovers):
    kept = building.build("out.onnx", output="e", runtime="ort")
    monkeypatch.setattr(Ort, "open", _open_wrong)
    with pytest.raises(UserError, match="computes something else"):
        building.build("out.dense.onnx", output="e", runtime="ort")
    assert engine_folder.read_engine("e") == kept
    assert not leftovers(folder)


@pytest.mark.parametrize(
    "failure", [RuntimeError("broken"), KeyboardInterrupt(), OSError(28, "no")]
)
def test_a_build_that_raises_leaves_the_previous_engine(
    folder, shrunk, monkeypatch, leftovers, failure
):
    kept = building.build("out.onnx", output="e", runtime="ort")

    def fail(self, model, target, directory, options):
        (directory / "half").write_text("half")
        raise failure

    monkeypatch.setattr(Ort, "build", fail)
    expected = UserError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        building.build("out.dense.onnx", output="e", runtime="ort")
    assert engine_folder.read_engine("e") == kept
    assert not leftovers(folder)


BUILD = """
import sys, time
from prunedeploy.engines import building, engine_folder, opening, sources
from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.ort.cpu import Ort
real = Ort.build
def slow(self, model, target, directory, options):
    files = real(self, model, target, directory, options)
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return files
Ort.build = slow
try:
    building.build(sys.argv[1], output="e", runtime="ort")
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
    kept = building.build("out.onnx", output="e", runtime="ort")
    child = start("out.dense.onnx", 60)
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n"
    assert leftovers(folder)  # it is really in the middle
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode != 0
    assert engine_folder.read_engine("e") == kept
    assert not leftovers(folder)


def test_two_builds_at_once_into_one_place(folder, shrunk, leftovers):
    building.build("out.onnx", output="e", runtime="ort")
    children = [start(model, 0.2) for model in ("out.onnx", "out.dense.onnx")]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert 0 in [child.returncode for child in children], errors
    assert "Traceback" not in "".join(errors)
    engine = engine_folder.read_engine("e")
    assert engine.manifest.model_sha256 in (shrunk.model_sha256, shrunk.dense_sha256)
    assert run(engine).shape == (3, 10)
    assert not leftovers(folder)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, shrunk, leftovers):
    kept = building.build("out.onnx", output="e", runtime="ort")

    def limit() -> None:  # no file may grow beyond 100 bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    child = start("out.dense.onnx", 0, limit)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.count("\n") == 1
    assert error.startswith("UserError: cannot write e: ")
    assert engine_folder.read_engine("e") == kept
    assert not leftovers(folder)


@pytest.mark.parametrize("place", ["/sys/engine", "missing/engine"])
def test_a_folder_that_cannot_be_written(folder, shrunk, place):
    with pytest.raises(UserError, match="cannot write") as caught:
        building.build("out.onnx", output=place, runtime="ort")
    assert "\n" not in str(caught.value)


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
        building.build(**{"model": "out.onnx", "runtime": "ort", **options})
    assert "\n" not in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_an_unknown_operator_is_named(folder):
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="my")
    x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("my", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), "odd.onnx")
    with pytest.raises(UserError, match="Frobnicate") as caught:
        building.build("odd.onnx", runtime="ort")
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == [folder / "odd.onnx"]


def test_weights_in_a_file_beside_the_model_move_along(folder, shrunk):
    model = onnx.load("out.onnx")
    (folder / "far").mkdir()
    onnx.save(model, "far/ext.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert (folder / "far" / "w.bin").stat().st_size
    building.build("far/ext.onnx", output="e", runtime="ort")
    shutil.rmtree("far")
    expected = run(building.build("out.onnx", output="plain", runtime="ort"))
    np.testing.assert_array_equal(run("e"), expected)


def test_the_null_engine_is_never_compared(folder, shrunk):
    engine = building.build("out.onnx", runtime="null")
    assert engine.manifest.difference is None
    assert not run(engine).any()
