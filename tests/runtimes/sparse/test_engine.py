"""Engines of the sparse runtime, compiled for real: built, opened, run, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from engines import build, feed, network, output

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.engines import opening
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.api import split


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    """For batches of 2 and 3: some others are sums of them."""
    return build(model, tmp_path_factory.mktemp("engine") / "e", batch=(3, 2), threads=2)


@pytest.fixture
def session(engine):
    with opening.open(engine) as session:
        yield session


@pytest.fixture(scope="module")
def reference(model):
    return Evaluator(model)


def expected(reference, feeds):
    (found,) = reference.run(feeds).values()
    return found


def near(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)


# -- what it computes ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_batch_that_is_a_sum(engine, reference, batch, threads):
    feeds = feed(engine, batch, seed=batch)
    with opening.open(engine, threads) as session:
        near(output(session, feeds), expected(reference, feeds))


def test_a_batch_that_is_no_sum(engine, session):
    with pytest.raises(UserError, match=r"built for batches of 2, 3, found 1: .*--batch 1"):
        session.run(feed(engine, 1))


@pytest.mark.parametrize(
    ("batch", "batches", "pieces"),
    [
        (40, (1, 8, 32), (32, 8)),
        (3, (1,), (1, 1, 1)),
        (6, (5, 3), (3, 3)),
        (11, (5, 3), (5, 3, 3)),
        (7, (5, 3), None),
        (9, (), (9,)),
    ],
)
def test_how_batches_are_cut(batch, batches, pieces):
    assert split(batch, batches) == pieces


def test_a_model_of_one_batch(tmp_path):
    model = network(tmp_path / "net.onnx", batch=3)
    engine = build(model, tmp_path / "e")
    assert engine.manifest.batches == (3,)
    with opening.open(engine) as session:
        near(output(session, feed(engine, 3)), expected(Evaluator(model), feed(engine, 3)))
    with pytest.raises(UserError, match="takes batches of 3 only: leave out --batch"):
        build(model, tmp_path / "other", batch=2)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, 3)[..., ::2],
        lambda x: x[::-1][::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        lambda x: np.broadcast_to(x, x.shape),
        lambda x: x.tolist() and np.array(x.tolist(), np.float32),
    ],
    ids=["Fortran", "strides", "twice", "big-endian", "unaligned", "read-only", "own"],
)
def test_arrays_of_any_memory_order(engine, session, change):
    feeds = feed(engine, 2)
    wanted = output(session, feeds)
    np.testing.assert_array_equal(output(session, {"input": change(feeds["input"])}), wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), r"takes float32, found float64: .*astype"),
        (lambda x: x[:, :4], "takes batch x 5 x 9 x 9, found 2 x 4 x 9 x 9"),
        (lambda x: x[0], "found 5 x 9 x 9"),
        (lambda x: x[:0], "found 0 x 5 x 9 x 9"),
    ],
)
def test_arrays_that_do_not_fit(engine, session, change, message):
    with pytest.raises(UserError, match=message) as caught:
        session.run({"input": change(feed(engine, 2)["input"])})
    assert "\n" not in str(caught.value)


def test_nan_and_infinity_stay(engine, session):
    feeds = feed(engine, 2)
    feeds["input"][0] = np.nan
    found = output(session, feeds)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_an_operator_that_is_not_known(tmp_path):
    graph = onnx.parser.parse_graph("g (float[b, 4] x) => (float[b, 4] y) { y = Hardmax(x) }")
    opsets = [onnx.helper.make_opsetid("", 20)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(UserError, match=r"Hardmax.*--runtime hybrid here, or ort") as caught:
        build(path, tmp_path / "e")
    assert "\n" not in str(caught.value)
    assert [x.name for x in tmp_path.iterdir()] == ["m.onnx"]


def _gather(path):
    graph = onnx.parser.parse_graph(
        """g (int64[b, 3] i, float[b, 3, 4] x) => (float[b, 3, 4] y) {
            e = Gather(table, i)
            y = Add(e, x)
        }"""
    )
    table = np.arange(28, dtype=np.float32).reshape(7, 4)
    graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return table


def test_several_inputs_and_indices(tmp_path):
    table = _gather(tmp_path / "m.onnx")
    engine = build(tmp_path / "m.onnx", tmp_path / "e", batch=2, threads=3)
    indices = np.array([[0, 6, 3], [-1, -7, 2]] * 2)
    x = np.random.default_rng(0).standard_normal((4, 3, 4)).astype(np.float32)
    with opening.open(engine) as session:
        np.testing.assert_array_equal(output(session, {"x": x, "i": indices}), table[indices] + x)
        for bad in (7, -8, 2**40):
            indices[3, 1] = bad
            with pytest.raises(UserError, match="an index that its table does not have"):
                session.run({"x": x, "i": indices})
        with pytest.raises(UserError, match="b is 2 in input 'x' and 4 in another"):
            session.run({"x": x[:2], "i": indices})
        indices[3, 1] = 0  # the session is none the worse
        np.testing.assert_array_equal(output(session, {"x": x, "i": indices}), table[indices] + x)


# -- arrays to write to ----------------------------------------------------------------------------


def test_outputs_go_where_they_are_wanted(engine, session):
    feeds = feed(engine, 5)
    (name,) = session.run(feeds)
    room = np.full((7, 10), 7.0, np.float32)
    found = session.run(feeds, out={name: room[1:6]})[name]
    np.testing.assert_array_equal(found, output(session, feeds))
    assert np.shares_memory(found, room)
    assert (room[[0, 6]] == 7).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: np.empty((2, 11), np.float32), "needs a float32 array of 2 x 10"),
        (lambda x: np.empty((2, 10)), "needs a float32 array of 2 x 10"),
        (lambda x: [0.0] * 20, "needs a float32 array of 2 x 10"),
        (lambda x: np.empty((10, 2), np.float32).T, "writable, aligned and in C order"),
        (lambda x: np.frombuffer(bytes(80), np.float32).reshape(2, 10), "writable"),
        (lambda x: x.reshape(-1)[5:25].reshape(2, 10), "overlaps"),
    ],
)
def test_arrays_that_outputs_cannot_go_to(engine, session, make, message):
    feeds = feed(engine, 2)
    (name,) = session.run(feeds)
    with pytest.raises(UserError, match=message):
        session.run(feeds, out={name: make(feeds["input"])})
    with pytest.raises(UserError, match="no output is called 'nothing'"):
        session.run(feeds, out={"nothing": make(feeds["input"])})


# -- the engine's folder ---------------------------------------------------------------------------


def test_what_is_in_it(engine, model):
    manifest = engine.manifest
    assert set(manifest.files) == {"model.so", "model.h", "layers.json", "session.py"}
    assert (manifest.batches, manifest.threads) == ((2, 3), 2)
    assert manifest.arch == os.uname().machine
    assert {"gcc", "clang", "ziglang", "cc"} & set(manifest.versions)
    assert manifest.difference.passed
    assert manifest.difference.samples == 2 + 3 + 4  # each size, and one in pieces
    layers = json.loads((engine.path / "layers.json").read_text())["layers"]
    assert set(layers) == {"2", "3"}
    nonzeros = sum(
        np.count_nonzero(x) for x in map(onnx.numpy_helper.to_array, weights(model)) if x.ndim > 1
    )
    assert sum(layer["nonzeros"] for layer in layers["2"]) == nonzeros
    convolutions = [x for x in layers["3"] if x["kind"] == "Conv"]
    assert convolutions[0]["flops"] == 2 * convolutions[0]["nonzeros"] * 81 * 3


def weights(model):
    return onnx.load(model).graph.initializer


def test_the_same_model_gives_the_same_bytes(engine, model, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    again = build(model, tmp_path / "deep" / "er" / "e", batch=(2, 3), threads=2)
    assert again.manifest.files == engine.manifest.files
    other = build(network(tmp_path / "o.onnx", 1), tmp_path / "o", batch=(2, 3), threads=2)
    assert other.manifest.files["model.so"] != engine.manifest.files["model.so"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "replaced"])
def test_a_damaged_engine(engine, tmp_path, damage):
    place = tmp_path / "e"
    place.mkdir()
    for file in engine.path.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    library = place / "model.so"
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 4
    {
        "cut": lambda: library.write_bytes(data[: len(data) // 2]),
        "flipped": lambda: library.write_bytes(data),
        "gone": library.unlink,
        "replaced": lambda: library.write_bytes(Path(sys.executable).read_bytes()),
    }[damage]()
    with (
        pytest.raises(UserError, match=r"model.so is (not what was built|missing)") as caught,
        opening.open(place),
    ):
        pass
    assert "\n" not in str(caught.value)


def _relabelled(engine, place, data=None, **changes):
    """A copy whose manifest says something else, and agrees with its files."""
    place.mkdir()
    for file in engine.path.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    if data is not None:
        (place / "model.so").write_bytes(data)
    manifest = json.loads((place / "manifest.json").read_text()) | changes
    manifest["files"]["model.so"] = sha256(place / "model.so")
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "sparc"}, "is for sparc, this machine is"),
        ({"isa": "rvv"}, "needs rvv, which this machine lacks"),
        ({"isa": "generic"}, "not generic as it says"),
        ({"data": b"not a library"}, "cannot load the engine"),
        ({"data": b"\x7fELF" + bytes(60)}, "cannot load the engine"),
        ({"data": Path(np._core._multiarray_umath.__file__).read_bytes()}, "pd_info"),
    ],
)
def test_an_engine_of_somebody_else(engine, tmp_path, changes, message):
    place = _relabelled(engine, tmp_path / "e", **changes)
    with pytest.raises(UserError, match=message) as caught, opening.open(place):
        pass
    assert "\n" not in str(caught.value)


def test_a_processor_without_the_instructions(engine, monkeypatch):
    from prunedeploy import targets

    if engine.manifest.isa == "generic":
        pytest.skip("nothing beyond the architecture's own instructions here")
    monkeypatch.setattr(targets, "host_isa", lambda: ())
    with pytest.raises(UserError, match="which this machine lacks"), opening.open(engine):
        pass


def test_another_network_under_the_same_manifest(engine, tmp_path):
    inputs = json.loads((engine.path / "manifest.json").read_text())["inputs"]
    place = _relabelled(engine, tmp_path / "e", inputs=[inputs[0] | {"name": "pixels"}])
    with pytest.raises(UserError, match="another network than its manifest"), opening.open(place):
        pass


def test_an_engine_that_takes_the_place_of_an_open_one(tmp_path):
    """The loader keeps libraries by name: the new one must not be the old one."""
    models = [network(tmp_path / f"{seed}.onnx", seed) for seed in (0, 1)]
    feeds = None
    found = []
    with opening.open(build(models[0], tmp_path / "e", batch=2)) as old:
        feeds = {"input": np.ones((2, 5, 9, 9), np.float32)}
        with opening.open(build(models[1], tmp_path / "e", batch=2)) as new:
            found = [output(old, feeds), output(new, feeds)]
    for model, result in zip(models, found, strict=True):
        near(result, expected(Evaluator(model), feeds))


def test_opening_needs_neither_torch_nor_onnx(engine):
    code = (
        "import sys, numpy as np\n"
        "from prunedeploy.engines import opening\n"
        f"with opening.open({str(engine.path)!r}) as session:\n"
        "    session.run({'input': np.ones((2, 5, 9, 9), np.float32)})\n"
        "print([m for m in ('torch', 'onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- sessions --------------------------------------------------------------------------------------


def test_memory_goes_with_the_session(engine):
    def resident() -> int:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in x)
        return int(line.split()[1])

    feeds = feed(engine, 3)
    sizes = []
    for _ in range(60):
        with opening.open(engine) as session:
            session.run(feeds)
        sizes.append(resident())
    assert sizes[-1] - sizes[20] < 2000  # kB


def test_an_idle_session_uses_no_processor(engine):
    import time

    with opening.open(engine, threads=4) as session:
        session.run(feed(engine, 2))
        start = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - start < 0.02


def test_a_session_from_before_a_fork(engine, session):
    session.run(feed(engine, 2))
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        status = 1
        try:
            session.run(feed(engine, 2))
        except UserError as error:
            status = 0 if "forked" in str(error) else 2
        finally:
            session.close()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    session.run(feed(engine, 2))


@pytest.mark.parametrize("shared", [True, False])
def test_sixteen_threads_get_the_same_numbers(engine, shared):
    """On one session, which they share, and on one each; $PRUNEDEPLOY_HAMMER says for how long."""
    import time

    seconds = float(os.environ.get("PRUNEDEPLOY_HAMMER", "1.5"))
    feeds = [feed(engine, batch, batch) for batch in (2, 3, 5, 7)]
    with opening.open(engine, threads=2) as session:
        wanted = [output(session, x) for x in feeds]
        start = threading.Barrier(16)

        def hammer(number: int) -> int:
            with opening.open(engine, threads=1 + number % 3) as own:
                start.wait()
                end, count = time.monotonic() + seconds, 0
                while time.monotonic() < end:
                    which = (number + count) % len(feeds)
                    found = output(session if shared else own, feeds[which])
                    assert (found == wanted[which]).all(), (number, count)
                    count += 1
            return count

        with ThreadPoolExecutor(16) as pool:
            counts = list(pool.map(hammer, range(16)))
    assert min(counts) > 0


def test_closing_while_others_run(engine):
    with opening.open(engine, threads=2) as session, ThreadPoolExecutor(4) as pool:
        begun = threading.Barrier(5)

        def run(_: int) -> str:
            begun.wait()
            try:
                while True:
                    session.run(feed(engine, 2))
            except UserError as error:
                return str(error)

        runs = [pool.submit(run, number) for number in range(4)]
        begun.wait()
        session.close()
        assert all("closed" in one.result(timeout=20) for one in runs)


def test_the_steps_take_time(engine, session):
    found = session.profile(feed(engine, 5), rounds=3)
    assert set(found) == {2, 3}
    for size, samples in found.items():
        assert len(samples) == 3
        assert all(len(times) == len(session.layers(size)) for times in samples)
        assert all(time > 0 for times in samples for time in times)
