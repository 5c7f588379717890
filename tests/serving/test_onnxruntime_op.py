"""Sparse engines as one node of ONNX Runtime: numbers, batches, threads, errors, a C program."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import engines
import numpy as np
import onnx
import pytest

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.hybrid import custom_op
from prunedeploy.runtimes.hybrid.custom_op import DOMAIN, OP, SOURCES

ort = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "c" / "ort"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Compiled into a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield prunedeploy.onnxruntime_library()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    model = engines.network(folder / "model.onnx", seed=3)
    return engines.build(model, folder / "engine", batch=(3, 5), threads=1)


def open_model(library: Path, model: Path | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def reference(engine, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(str(engine.path.parent / "model.onnx"))
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("batch", [3, 5, 6, 11, 13])
def test_the_node_computes_what_the_model_computes(library, engine, tmp_path, embed, batch):
    model = prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx", embed=embed)
    onnx.checker.check_model(str(model))
    session = open_model(library, model)
    feeds = engines.feed(engine, batch, seed=batch)
    (found,) = session.run(None, feeds)
    wanted = reference(engine, feeds)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    with prunedeploy.open(engine) as own:
        np.testing.assert_array_equal(found, engines.output(own, feeds))


def test_an_embedded_engine_needs_no_file(library, engine, tmp_path):
    moved = shutil.copytree(engine.path, tmp_path / "engine")
    model = prunedeploy.onnxruntime_model(moved, tmp_path / "one.onnx").read_bytes()
    referring = prunedeploy.onnxruntime_model(moved, tmp_path / "two.onnx", embed=False)
    shutil.rmtree(moved)
    feeds = engines.feed(engine, 3)
    np.testing.assert_array_equal(
        open_model(library, model).run(None, feeds)[0],
        open_model(library, prunedeploy.onnxruntime_model(engine, tmp_path / "three.onnx")).run(
            None, feeds
        )[0],
    )
    with pytest.raises(Exception, match=r"cannot read the engine .*engine: No such file"):
        open_model(library, referring)


def test_another_engine_under_the_same_path_is_the_one_that_runs(library, engine, tmp_path):
    place = shutil.copytree(engine.path, tmp_path / "engine")
    model = prunedeploy.onnxruntime_model(place, tmp_path / "one.onnx", embed=False)
    old = open_model(library, model)
    other = engines.build(
        engines.network(tmp_path / "other.onnx", seed=8), tmp_path / "other", batch=3, threads=1
    )
    shutil.rmtree(place)
    shutil.copytree(other.path, place)
    new = open_model(library, model)
    feeds = engines.feed(engine, 3)
    np.testing.assert_allclose(old.run(None, feeds)[0], reference(engine, feeds), atol=1e-5)
    with prunedeploy.open(other) as session:
        np.testing.assert_array_equal(new.run(None, feeds)[0], engines.output(session, feeds))


@pytest.mark.parametrize("sessions", [0, 1, 3])
def test_concurrent_runs_keep_their_inputs_apart(library, engine, tmp_path, sessions):
    model = prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx", sessions=sessions)
    session = open_model(library, model)
    feeds = [engines.feed(engine, 3 + 2 * (n % 2), seed=n) for n in range(40)]
    wanted = [session.run(None, one)[0] for one in feeds]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: session.run(None, one)[0], feeds * 5))
    for number, result in enumerate(found):
        np.testing.assert_array_equal(result, wanted[number % 40])


def test_what_does_not_fit_is_an_error_of_the_run(library, engine, tmp_path):
    model = onnx.load(prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx"))
    with pytest.raises(Exception, match=r"built for batches of 3, 5, found 4"):
        open_model(library, model.SerializeToString()).run(None, engines.feed(engine, 4))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = f"free{dim.dim_value}"
    session = open_model(library, model.SerializeToString())
    wrong = np.zeros((3, 5, 9, 8), np.float32)
    with pytest.raises(Exception, match="'input' takes batch x 5 x 9 x 9, found 3 x 5 x 9 x 8"):
        session.run(None, {"input": wrong})
    (found,) = session.run(None, engines.feed(engine, 3))  # and it goes on working
    np.testing.assert_allclose(found, reference(engine, engines.feed(engine, 3)), atol=1e-5)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(Exception, match="'input' takes float32"):
        open_model(library, model.SerializeToString()).run(None, {"input": np.zeros((3, 5, 9, 9))})


def damaged(engine, change) -> bytes:
    data = change((engine.path / "model.so").read_bytes())
    node = onnx.helper.make_node(OP, ["input"], ["output"], domain=DOMAIN, **data)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "engine",
        [onnx.helper.make_tensor_value_info("input", kind, ["batch", 5, 9, 9])],
        [onnx.helper.make_tensor_value_info("output", kind, ["batch", 10])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {"engine": data[: len(data) // 2]}, "is damaged"),
        (lambda data: {"engine": b""}, "neither|is damaged"),
        (lambda data: {"engine": b"not a library" * 9}, "is damaged"),
        (lambda data: {}, "neither of the attributes"),
        (lambda data: {"path": "/nowhere/engine"}, "cannot read the engine /nowhere/engine"),
    ],
)
def test_engines_that_are_none_are_errors_of_the_session(library, engine, change, message):
    with pytest.raises(Exception, match=message):
        open_model(library, damaged(engine, change))


def test_a_library_that_is_no_engine(library, engine):
    with pytest.raises(Exception, match="is not an engine"):
        open_model(library, damaged(engine, lambda _: {"engine": library.read_bytes()}))


def test_engines_of_other_runtimes_are_refused(tmp_path):
    model = engines.network(tmp_path / "model.onnx")
    engine = prunedeploy.build(model, "host", "ort", tmp_path / "engine")
    with pytest.raises(UserError, match="build one with --runtime sparse"):
        prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx")


def test_the_library_is_compiled_once_and_anew_for_another_compiler(library, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(library.parents[1]))
    before = library.stat().st_mtime_ns
    assert prunedeploy.onnxruntime_library() == library
    assert library.stat().st_mtime_ns == before
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        prunedeploy.onnxruntime_library()


def test_only_one_name_is_visible(library):
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    said = subprocess.run([nm, "-D", library], capture_output=True, text=True, check=True)
    defined = [line.split()[-1] for line in said.stdout.splitlines() if " T " in line]
    assert defined == ["RegisterCustomOps"]


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_the_library_for_another_machine(library, monkeypatch):
    """For a Jetson Nano: AArch64, and nothing newer than its C library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(library.parents[1]))
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    data = prunedeploy.onnxruntime_library("jetson").read_bytes()
    assert data[:4] == b"\x7fELF"
    assert int.from_bytes(data[18:20], "little") == 183  # EM_AARCH64
    versions = {tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_([\d.]+)", data)}
    assert versions
    assert max(versions) <= (2, 27)


def test_a_c_program_runs_an_engine_on_eight_threads(library, engine, tmp_path):
    """Against the shared library of the wheel, with the declarations that the op has."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("no C compiler or make is installed")
    capi = Path(ort.__file__).parent / "capi"
    if not list(capi.glob("libonnxruntime.so.*")):
        pytest.skip("this onnxruntime brings no shared library")
    program = shutil.copytree(EXAMPLE, tmp_path / "c") / "run"
    flags = [f"ORT={capi}", f"HEADERS={SOURCES}", "CFLAGS=-O1 -Wall -Wextra -Werror"]
    subprocess.run(["make", "-s", "-C", program.parent, *flags], check=True)
    model = prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx", sessions=2)
    feeds = engines.feed(engine, 8)
    feeds["input"].tofile(tmp_path / "in.bin")
    name = engine.manifest.outputs[0].name
    arguments = [model, library, "input", "8,5,9,9", tmp_path / "in.bin", name]
    said = subprocess.run(
        [program, *arguments, tmp_path / "out.bin", "8"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert "8 threads, 20 runs each: all the same" in said.stdout
    result = np.fromfile(tmp_path / "out.bin", np.float32).reshape(8, -1)
    with prunedeploy.open(engine) as session:
        np.testing.assert_array_equal(result, engines.output(session, feeds))
    arguments[3] = "4,5,9,9"
    said = subprocess.run(
        [program, *arguments, tmp_path / "out.bin"], capture_output=True, text=True
    )
    assert said.returncode == 1
    assert "built for batches of 3, 5, found 4" in said.stderr


@pytest.mark.parametrize(
    "numbers", [{"threads": 1 << 32}, {"threads": -1}, {"threads": 5000}, {"sessions": 1 << 40}]
)
def test_numbers_that_cannot_be(library, engine, tmp_path, numbers):
    """Refused where the model is written, and where somebody else wrote it."""
    with pytest.raises(UserError, match=r"cannot (compute|have)"):
        prunedeploy.onnxruntime_model(engine, tmp_path / "one.onnx", **numbers)
    written = damaged(engine, lambda data: {"engine": data, **numbers})
    with pytest.raises(Exception, match=r"cannot have -?\d+ threads and \d+ sessions"):
        open_model(library, written)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", None])
def test_a_damaged_library_in_the_cache_is_compiled_again(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        custom_op, "_compile", lambda tools, output: output.write_bytes(b"compiled")
    )
    path = prunedeploy.onnxruntime_library()
    assert path.read_bytes() == b"compiled"
    monkeypatch.setattr(custom_op, "_compile", lambda tools, output: output.write_bytes(b"again"))
    assert prunedeploy.onnxruntime_library().read_bytes() == b"compiled"
    if content is None:  # the process ended before the hash was written
        path.with_suffix(".sha256").unlink()
        assert prunedeploy.onnxruntime_library().read_bytes() == b"again"
        return
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged: compiling it again"):
        assert prunedeploy.onnxruntime_library().read_bytes() == b"again"
    assert prunedeploy.onnxruntime_library().read_bytes() == b"again"
