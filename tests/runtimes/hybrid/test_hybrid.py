"""Hybrid engines compute what their models compute, in one session, or are refused."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import hybrids
import numpy as np
import pytest
from net import Net
from onnx import TensorProto, helper
from typer.testing import CliRunner

import prunedeploy
from prunedeploy import targets
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import NoGainError, UnsupportedModelError, UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.records import Engine
from prunedeploy.engines import building, engine_folder, opening
from prunedeploy.graph.model import save
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.hybrid import race
from prunedeploy.runtimes.hybrid.build import build_hybrid
from prunedeploy.runtimes.hybrid.custom_op import onnxruntime_library
from prunedeploy.runtimes.hybrid.engine import read_placement
from prunedeploy.runtimes.hybrid.placement import OP_LIBRARY

ort = pytest.importorskip("onnxruntime")


def reference(engine: Engine, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the model that an engine of ``hybrids.build`` was built from."""
    session = ort.InferenceSession(str(engine.path.parent / "net.onnx"))
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def image(batch: int = 1, seed: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (batch, hybrids.CHANNELS, hybrids.SIZE, hybrids.SIZE)
    return {"input": random.standard_normal(shape).astype(np.float32)}


def agree(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.shape == other[name].shape
        assert np.ptp(other[name]) > 0
        np.testing.assert_allclose(array, other[name], rtol=0, atol=1e-5 * np.ptp(other[name]))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Two parts with an If between them; one output is from inside the first part."""
    net = hybrids.net()
    first = hybrids.convs(net, net.input, 1)
    second = hybrids.convs(net, first, 1)
    result = hybrids.pooled(net, hybrids.convs(net, hybrids.unknown(net, second), 1))
    return hybrids.build(net, tmp_path_factory.mktemp("hybrid"), result, first, batch=(1, 3))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_what_the_model_computes(engine, batch, threads):
    """A batch that it was not built for goes through each part in pieces that it was.

    The If is of all of the batch, which pieces would change: the whole batch goes through it.
    """
    with opening.open(engine, threads) as session:
        agree(session.run(image(batch)), reference(engine, image(batch)))
        assert session.provider == "CPUExecutionProvider with sparse parts"


def test_the_record_says_where_every_node_is_and_why(engine):
    placement = read_placement(engine)
    assert [part.node for part in placement.parts] == ["sparse_0", "sparse_1"]
    assert {each.code for each in placement.stock} == {"unknown-operator", "cannot-cut"}
    assert placement.share == 1.0
    pixels = hybrids.SIZE**2
    convs, linear = 3 * 9 * hybrids.CHANNELS**2 * pixels, hybrids.CHANNELS * 10
    assert placement.macs == convs + linear
    assert sum(part.nonzero for part in placement.parts) < 0.15 * placement.macs
    manifest = engine_folder.read_engine(engine.path).manifest
    assert set(manifest.files) == {"model.onnx", OP_LIBRARY, "placement.json"}
    assert (manifest.batches, manifest.threads) == ((1, 3), 1)
    assert manifest.difference is not None
    assert manifest.difference.passed


def test_sparse_parts_take_the_threads_of_their_session(engine):
    """It was built for one thread. Of three ONNX Runtime starts two, and so may each part."""

    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    opened = []
    for threads in (1, 3):
        before = tasks()
        with opening.open(engine, threads) as session:
            session.run(image())
            opened.append(tasks() - before)
    assert opened[0] == 0
    assert 2 < opened[1] <= 3 * 2


def test_several_threads_share_a_session(engine):
    wanted = reference(engine, image(3))
    results: list[dict[str, np.ndarray]] = []
    with opening.open(engine, 1) as session:
        workers = [
            threading.Thread(target=lambda: results.append(session.run(image(3)))) for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(results) == 4
    for result in results:
        agree(result, wanted)


def test_a_child_process_is_told_to_open_its_own(engine):
    with opening.open(engine, 1) as session:
        session.run(image())
        child = os.fork()
        if not child:
            try:
                session.run(image())
            except UserError as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(UserError, match="closed"):
        session.run(image())


@pytest.mark.parametrize("name", ["model.onnx", OP_LIBRARY])
def test_what_is_loaded_is_what_was_built(engine, tmp_path, name):
    """Whoever writes into a file after it was checked is noticed; a hash is needed for each."""
    other = tmp_path / "engine"
    other.mkdir()
    for file in engine.path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    checked = engine_folder.read_engine(other)
    content = (other / name).read_bytes()
    (other / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if name == "model.onnx":  # the library of that hash is loaded already, from its own copy
        with pytest.raises(UserError, match="its hash differs"):
            opening.open(checked)
    with pytest.raises(UserError, match="its hash differs"):
        opening.open(other)


def test_an_engine_for_another_processor_runs_no_code(engine, monkeypatch):
    monkeypatch.setattr("prunedeploy.targets.host_isa", lambda: ())
    with pytest.raises(UserError, match="this machine lacks"):
        opening.open(engine)


@pytest.mark.parametrize(
    ("threads", "message"), [("x", "takes a number"), ("-1", "takes a number"), ("5000", "takes")]
)
def test_an_entry_that_is_no_number_of_threads(engine, threads, message):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("prunedeploy.threads", threads)
    with pytest.raises(Exception, match=message):
        options.register_custom_ops_library(str(engine.path / OP_LIBRARY))


def test_bytes_go_in_and_an_lstm_is_in_the_middle(tmp_path):
    net = hybrids.net(2)
    net.inputs = [helper.make_tensor_value_info("input", TensorProto.UINT8, [2, 48, 24, 24])]
    image = net.node("Cast", "input", to=TensorProto.FLOAT)
    scaled = net.node("Mul", image, net.weight(np.array(1 / 64)))
    rows = net.node("ReduceMean", hybrids.convs(net, scaled), net.weight([2]), keepdims=0)
    steps = net.node("Transpose", rows, perm=[2, 0, 1])
    weights = [net.weight(net.random.standard_normal((1, 32, n)) / 8) for n in (48, 8)]
    states = net.node("LSTM", steps, *weights, hidden_size=8, clip=9.0)
    result = net.node("Reshape", states, net.weight(np.array([24, -1])))
    engine = hybrids.build(net, tmp_path, net.linear(result, (16, 10)))
    feeds = {"input": np.random.default_rng(0).integers(0, 255, (2, 48, 24, 24), np.uint8)}
    with opening.open(engine) as session:
        agree(session.run(feeds), reference(engine, feeds))
    placement = read_placement(engine)
    (lstm,) = [each for each in placement.stock if each.operator == "LSTM"]
    assert lstm.macs == 24 * 2 * (32 * 48 + 32 * 8)
    assert 0.99 < placement.share < 1.0


def test_a_model_of_which_no_part_pays_is_refused_with_the_reason(tmp_path):
    net = Net(4, 6, 0, np.float32)
    result = net.conv(hybrids.unknown(net, net.conv(net.input, (4, 4))), (4, 4))
    with pytest.raises(NoGainError, match=r"no part of the model pays for its cut: Conv \(Conv_"):
        hybrids.build(net, tmp_path, result)
    assert [x.name for x in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_without_a_known_layer_is_refused(tmp_path):
    net = Net(4, "height", 0, np.float32)
    with pytest.raises(UnsupportedModelError, match=r"any layer with weights.*height|sizes of"):
        hybrids.build(net, tmp_path, net.conv(net.input, (4, 4)))


def test_a_batch_that_no_sum_makes_is_refused(tmp_path):
    net = hybrids.net()
    result = hybrids.unknown(net, hybrids.convs(net, net.input, 1))
    engine = hybrids.build(net, tmp_path, result, batch=2)
    with opening.open(engine) as session, pytest.raises(UserError, match="built for batches of 2"):
        session.run(image(3))


def test_auto_falls_back_to_it_and_says_what_is_where(tmp_path, monkeypatch):
    """The race is decided here, so that a busy machine does not change what is tested."""
    net = hybrids.net()
    save(net.model(hybrids.unknown(net, hybrids.convs(net, net.input, 2))), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prunedeploy.engines.choice._fastest", lambda engines, times: engines[-1])
    monkeypatch.setattr("prunedeploy.engines.choice.SECONDS", 0.1)
    done = CliRunner().invoke(app, ["build", "net.onnx", "--tune", "none", "--threads", "1"])
    assert done.exit_code == 0, done.output
    text = done.output
    assert "net.host.hybrid.engine: hybrid engine for host" in text
    assert "sparse: 4 of 7 nodes in 1 part, 100.0% of the multiply-adds" in text
    assert "    If: the sparse runtime does not know it" in text
    assert "not sparse: it cannot compute If" in text
    assert "not hybrid" not in text
    assert max(len(x) for x in text.splitlines() if x.startswith("    ")) <= 80
    done = CliRunner().invoke(
        app, ["bench", "net.host.hybrid.engine", "--baseline", "net.onnx", "--rounds", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "hybrid" in done.output


def test_whole_models_of_the_sparse_runtime_stay_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("prunedeploy.engines.choice.SECONDS", 0.1)
    net = hybrids.net()
    save(net.model(hybrids.convs(net, net.input, 1)), tmp_path / "net.onnx")
    said: list[str] = []
    engine = building.build(
        tmp_path / "net.onnx", output=tmp_path / "e", tune="none", progress=said.append
    )
    assert engine.manifest.choice is not None
    assert {each.runtime for each in engine.manifest.choice.times} == {"ort", "sparse"}
    assert not engine.manifest.choice.refused
    assert not any("hybrid" in line for line in said)


def test_a_second_build_into_a_folder_leaves_what_runs_alone(tmp_path, monkeypatch):
    """As a build does whose outputs differ too much: ONNX Runtime still holds the first library."""
    whole = race.time_whole

    def time_whole(*arguments):
        times = whole(*arguments)
        return (1.0, *(1e-3 for _ in times[1:]))

    monkeypatch.setattr(race, "time_part", lambda *_: (1e-3, 2e-3))
    monkeypatch.setattr(race, "time_whole", time_whole)
    net = hybrids.net()
    middle = hybrids.unknown(net, hybrids.convs(net, net.input, 1))
    model = tmp_path / "net.onnx"
    save(net.model(hybrids.pooled(net, middle)), model)
    folder = tmp_path / "payload"
    folder.mkdir()
    for _ in range(2):
        build_hybrid(model, targets.by_name("host"), folder, BuildOptions(tune="quick"))
    assert sha256(folder / OP_LIBRARY) == sha256(onnxruntime_library())


@pytest.mark.slow
def test_parts_that_measure_slower_are_left_out(tmp_path, monkeypatch):
    """With tuning both runtimes are timed; here the second part is said to be slower."""
    times = iter([(1e-3, 2e-3), (2e-3, 1e-3)])
    monkeypatch.setattr(race, "time_part", lambda *_: next(times))
    monkeypatch.setattr(race, "time_whole", lambda *_: (3e-3, 2e-3))
    net = hybrids.net()
    middle = hybrids.unknown(net, hybrids.convs(net, net.input, 1))
    engine = hybrids.build(net, tmp_path, hybrids.convs(net, middle, 1), tune="quick")
    placement = read_placement(engine)
    assert len(placement.parts) == 1
    left = [each for each in placement.stock if each.operator == "Conv"]
    assert [each.code for each in left] == ["no-gain"]
    assert left[0].reason == "its part takes 2 ms in the sparse runtime, 1 ms in ONNX Runtime"
    assert (placement.seconds, placement.stock_seconds) == (2e-3, 3e-3)
    with opening.open(engine) as session:
        agree(session.run(image()), reference(engine, image()))

    times = iter([(1e-3, 2e-3)] * 2)
    monkeypatch.setattr(race, "time_whole", lambda *_: (2e-3, 3e-3, 4e-3))
    with pytest.raises(NoGainError, match=r"a run takes 3 ms, and 2 ms in ONNX Runtime"):
        hybrids.build(net, tmp_path, hybrids.convs(net, middle, 1), tune="quick")


def test_triton_gets_the_model_and_the_library(engine, tmp_path):
    folder = prunedeploy.serve_repo(engine, tmp_path / "repo", name="net", mount="/models")
    assert sorted(x.name for x in (folder / "1").iterdir()) == ["model.onnx", OP_LIBRARY]
    text = (folder / "config.pbtxt").read_text()
    assert f'op_library_filename: "/models/net/1/{OP_LIBRARY}"' in text
    assert 'platform: "onnxruntime_onnx"' in text
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(folder / "1" / OP_LIBRARY))
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), options)
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, image()), strict=True))
    agree(found, reference(engine, image()))


def test_json_of_the_placement_is_for_machines(engine):
    data = json.loads((Path(engine.path) / "placement.json").read_text())
    assert data["type"] == "Placement"
    assert {"name", "operator", "code", "reason", "macs"} == set(data["stock"][0])


@pytest.mark.slow
def test_profile_has_a_step_for_each_part(tmp_path: Path) -> None:
    net = hybrids.net()
    result = hybrids.pooled(net, hybrids.unknown(net, hybrids.convs(net, "input")))
    engine = hybrids.build(net, tmp_path, result)
    done = prunedeploy.bench(engine.path, tmp_path / "net.onnx", rounds=3, threads=1, profile=True)
    (found,) = done.profiles
    parts = [step for step in found.steps if step.choice == "a sparse part"]
    assert len(parts) == len(read_placement(engine).parts) >= 1
    assert {"If"} <= {step.kind for step in found.steps}
    assert all(step.seconds > 0 for step in parts)
