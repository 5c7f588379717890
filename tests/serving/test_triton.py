"""Triton model repositories: the configuration against its schema, and the file that runs there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import engines
import numpy as np
import onnx
import pytest

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.serving.triton import serve_repo


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return engines.network(tmp_path_factory.mktemp("model") / "model.onnx", seed=5)


@pytest.fixture(scope="module")
def engine(model):
    return engines.build(model, model.parent / "engine", batch=(1, 4, 8), threads=2)


@pytest.fixture(scope="module")
def fixed(model):
    source = engines.network(model.parent / "fixed.onnx", batch=2)
    return engines.build(source, model.parent / "fixed", threads=1)


def config_of(place):
    """The configuration, read by the published schema."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    text = (place / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_files_of_the_python_backend(engine, tmp_path):
    place = serve_repo(engine, tmp_path / "repo", name="net")
    assert place == tmp_path / "repo" / "net"
    assert {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} == {
        "config.pbtxt",
        "1/model.py",
        "1/engine.so",
    }
    assert (place / "1/engine.so").read_bytes() == (engine.path / "model.so").read_bytes()
    text = (place / "config.pbtxt").read_text()
    assert 'backend: "python"' in text
    assert "max_batch_size: 8" in text
    assert 'input { name: "input" data_type: TYPE_FP32 dims: [5, 9, 9] }' in text
    assert "preferred_batch_size: [4, 8]" in text
    assert engine.sha256 in text


def test_files_of_onnxruntime_with_the_custom_op(engine, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    place = serve_repo(engine, tmp_path, name="net", backend="onnxruntime", mount="/models")
    text = (place / "config.pbtxt").read_text()
    assert 'platform: "onnxruntime_onnx"' in text
    assert 'op_library_filename: "/models/net/1/prunedeploy_ort.so"' in text
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(place / "1" / "prunedeploy_ort.so"))
    session = ort.InferenceSession(str(place / "1" / "model.onnx"), options)
    feeds = engines.feed(engine, 6)
    with prunedeploy.open(engine) as own:
        np.testing.assert_array_equal(session.run(None, feeds)[0], engines.output(own, feeds))
    here = serve_repo(engine, tmp_path, name="other", backend="onnxruntime")
    library = f"{tmp_path.resolve()}/other/1/prunedeploy_ort.so"
    assert f'op_library_filename: "{library}"' in (here / "config.pbtxt").read_text()


def test_files_of_a_stock_engine(model, tmp_path):
    engine = prunedeploy.build(model, "host", "ort", tmp_path / "engine")
    place = serve_repo(engine, tmp_path / "repo")
    assert place.name == "engine"
    onnx.checker.check_model(str(place / "1" / "model.onnx"))
    assert "max_batch_size: 64" in (place / "config.pbtxt").read_text()
    with pytest.raises(UserError, match="backend python is for sparse engines"):
        serve_repo(engine, tmp_path / "repo", name="x", backend="python")


def test_a_plan_needs_a_gpu(engine, tmp_path):
    (tmp_path / "model.plan").write_bytes(b"a plan")
    manifest = replace(
        engine.manifest, runtime="tensorrt", files={"model.plan": ""}, batches=(1, 16)
    )
    place = serve_repo(replace(engine, path=tmp_path, manifest=manifest), tmp_path / "r", name="x")
    assert (place / "1" / "model.plan").read_bytes() == b"a plan"
    text = (place / "config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in text
    assert "KIND_GPU" in text
    gone = replace(manifest, runtime="tensorrt-rtx")
    with pytest.raises(UserError, match="no backend for engines of tensorrt-rtx"):
        serve_repo(replace(engine, manifest=gone), tmp_path / "r", name="y")


def test_the_schema_takes_all_of_it(engine, fixed, model, tmp_path):
    config = config_of(serve_repo(engine, tmp_path, name="a"))
    assert (config.name, config.backend, config.max_batch_size) == ("a", "python", 8)
    assert list(config.input[0].dims) == [5, 9, 9]
    assert config.output[0].data_type == 11  # TYPE_FP32
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.parameters["threads"].string_value == "2"
    config = config_of(serve_repo(fixed, tmp_path, name="b"))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 5, 9, 9]
    assert not config.HasField("dynamic_batching")
    config = config_of(serve_repo(engine, tmp_path, name="c", backend="onnxruntime"))
    assert config.platform == "onnxruntime_onnx"
    assert config.model_operations.op_library_filename[0].startswith(str(tmp_path))
    stock = prunedeploy.build(model, "host", "ort", tmp_path / "engine")
    for runtime in ("ort", "ort-cuda", "ort-tensorrt", "tensorrt"):
        one = replace(stock, manifest=replace(stock.manifest, runtime=runtime))
        config = config_of(serve_repo(one, tmp_path, name=runtime))
        assert config.instance_group[0].kind == (2 if runtime == "ort" else 1)
    odd = TensorSpec('a "b" \\', "int64", ("batch",))
    one = replace(stock, manifest=replace(stock.manifest, inputs=(odd,)))
    config = config_of(serve_repo(one, tmp_path, name="odd"))
    assert config.input[0].name == odd.name
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")


def test_what_is_refused(engine, model, tmp_path):
    place = serve_repo(engine, tmp_path, name="a")
    before = (place / "config.pbtxt").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        serve_repo(engine, tmp_path, name="a")
    assert (place / "config.pbtxt").read_bytes() == before
    with pytest.raises(UserError, match="is no name for a model"):
        serve_repo(engine, tmp_path, name="../a")
    manifest = replace(engine.manifest, batches=(4, 8))
    with pytest.raises(UserError, match="build it with --batch 1,4,8"):
        serve_repo(replace(engine, manifest=manifest), tmp_path, name="b")
    for runtime in ("sparse", "ort", "hybrid", "tensorrt"):
        unlisted = replace(engine.manifest, runtime=runtime, files={})
        with pytest.raises(UserError, match="its manifest has no hash of model"):
            serve_repo(replace(engine, manifest=unlisted), tmp_path, name="b")
    strange = TensorSpec("x", "complex64", ("batch", 3))
    with pytest.raises(UserError, match="no type for 'x', which is complex64"):
        serve_repo(
            replace(engine, manifest=replace(engine.manifest, inputs=(strange,))),
            tmp_path,
            name="b",
        )
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


@pytest.fixture
def served(engine, tmp_path, monkeypatch):
    """The file as Triton loads it. Its interface is Triton's own, and only there inside of it."""
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor = lambda name, array: SimpleNamespace(name=name, array=array)
    utils.TritonError = lambda message: message
    utils.InferenceResponse = lambda tensors, error=None: SimpleNamespace(
        tensors=tensors, error=error
    )
    utils.get_input_tensor_by_name = lambda request, name: SimpleNamespace(
        as_numpy=lambda: request[name]
    )
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    place = serve_repo(engine, tmp_path, name="net")
    spec = importlib.util.spec_from_file_location("served_model", place / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.TritonPythonModel()
    found.initialize({"model_config": json.dumps({"parameters": {}})})
    yield found
    found.finalize()


def test_requests_are_computed_together_and_told_apart(served, engine):
    requests = [engines.feed(engine, 1 + n % 3, seed=n) for n in range(7)]
    answers = served.execute(requests)
    with prunedeploy.open(engine) as session:
        for feeds, answer in zip(requests, answers, strict=True):
            wanted = engines.output(session, feeds)
            np.testing.assert_allclose(answer.tensors[0].array, wanted, rtol=0, atol=1e-6)


def test_a_request_at_fault_is_the_only_one_that_is_told(served, engine):
    good = engines.feed(engine, 2)
    answers = served.execute([good, {"input": np.zeros((2, 5, 9, 8), np.float32)}, good])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert "input 'input' takes (2, 5, 9, 9)" in answers[1].error
    np.testing.assert_array_equal(answers[0].tensors[0].array, answers[2].tensors[0].array)


def test_the_file_needs_numpy_alone(engine, tmp_path):
    place = serve_repo(engine, tmp_path, name="net")
    feeds = engines.feed(engine, 13)
    np.save(tmp_path / "x.npy", feeds["input"])
    code = (
        "import sys, numpy as np, model; from pathlib import Path\n"
        "e = model.Engine(Path('engine.so'), 1); "
        "(y,) = e.run([np.load('../../x.npy')]); e.close()\n"
        "np.save('../../y.npy', y)\n"
        "print(*sorted({'torch', 'onnx', 'prunedeploy'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=place / "1", capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == ""
    with prunedeploy.open(engine, threads=1) as session:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), engines.output(session, feeds))


def test_from_the_command_line(engine, tmp_path):
    command = [sys.executable, "-m", "prunedeploy", "serve-repo", engine.path, "--json"]
    done = subprocess.run(
        [*command, "-o", tmp_path / "repo", "--name", "net"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(tmp_path / "repo" / "net")
    again = subprocess.run(
        [*command, "-o", tmp_path / "repo", "--name", "net"], capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.stderr
