from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.engines import building, opening
from prunedeploy.runtimes.ort.cpu import Ort


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = onnx.parser.parse_graph(
        """two (float[batch, 3] a, int64[batch, 1] b) => (float[batch, 3] sum, float[n, 3] same) {
            c = Cast <to = 1> (b)
            sum = Add(a, c)
            same = Identity(a)
        }"""
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), "two.onnx")
    return building.build("two.onnx", output="e", runtime="ort")


A, B = np.ones((4, 3), np.float32), np.arange(4)[:, None]


def test_names_in_names_out(engine):
    with opening.open(engine) as session:
        found = session.run({"b": B, "a": A})
    assert list(found) == ["sum", "same"]
    np.testing.assert_array_equal(found["sum"], A + B)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"a": A}, "input 'b' is missing: the engine takes a, b"),
        ({"a": A, "b": B, "c": A}, "no input is called 'c'"),
        ({"a": A.astype(np.float64), "b": B}, r"takes float32, found float64: .*astype"),
        ({"a": A[:, :2], "b": B}, "takes batch x 3, found 4 x 2"),
        ({"a": A[0], "b": B}, "takes batch x 3, found 3"),
        ({"a": A[:0], "b": B[:0]}, "takes batch x 3, found 0 x 3"),
        ({"a": A, "b": B[:3]}, "batch is 3 in input"),
        (A, "inputs go by name: give {'a': array, ...}"),
        ([A, B], "inputs go by name"),
    ],
)
def test_feeds_that_do_not_fit(engine, feeds, message, capfd):
    with opening.open(engine) as session, pytest.raises(UserError, match=message) as caught:
        session.run(feeds)
    assert "\n" not in str(caught.value)


def test_arrays_that_are_not_contiguous(engine):
    wide = np.arange(24, dtype=np.float32).reshape(3, 8).T[::2]
    with opening.open(engine) as session:
        np.testing.assert_array_equal(session.run({"a": wide, "b": B})["same"], wide)


def test_the_provider_is_what_the_session_says(engine, monkeypatch):
    import onnxruntime

    class Elsewhere(onnxruntime.InferenceSession):
        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Elsewhere)
    with opening.open(engine) as session:
        assert session.provider == "CUDAExecutionProvider, CPUExecutionProvider"


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_threads_are_as_asked(engine):
    before = _threads()
    with opening.open(engine, threads=1):
        assert _threads() == before
    with opening.open(engine, threads=4):
        assert _threads() == before + 3


def test_leaving_the_context_releases_the_session(engine):
    before = _threads()
    with opening.open(engine, threads=4) as session:
        pass
    assert _threads() == before
    with pytest.raises(UserError, match="closed"):
        session.run({"a": A, "b": B})


def test_an_idle_shared_session_leaves_the_cores_alone(engine):
    """Without ``shared`` the worker threads spin on after a run, at the next session's cost."""
    import time

    with opening.open(engine, threads=2, shared=True) as session:
        session.run({"a": A, "b": B})
        start = time.process_time()
        time.sleep(0.05)
        assert time.process_time() - start < 0.02


def test_a_payload_that_onnxruntime_does_not_take(engine):
    from prunedeploy.runtimes.api import OpenOptions

    (engine.path / "model.onnx").write_bytes(b"not a model")
    with (
        pytest.raises(UserError, match="onnxruntime cannot open") as caught,
        Ort().open(engine, OpenOptions()),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_nothing_but_our_own_words_reaches_the_terminal(tmp_path):
    """A model that onnxruntime warns about: an initializer that no node reads."""
    graph = onnx.parser.parse_graph("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    code = (
        "from prunedeploy.engines import building, opening\n"
        "engine = building.build('m.onnx', runtime='ort')\n"
        "with opening.open(engine) as session: print(session.provider)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("CPUExecutionProvider\n", "")


def test_without_onnxruntime(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(MissingExtra, match=r"pip install 'prunedeploy\[cpu\]'"):
        Ort().versions()
