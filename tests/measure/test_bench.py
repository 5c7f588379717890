from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, sha256, to_json
from prunedeploy.core.measurements import BenchResult
from prunedeploy.engines import building
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.ort.cpu import Ort

# the package's attribute of that name is the function
module = importlib.import_module("prunedeploy.measure.bench")
bench = module.bench


@pytest.fixture
def engine(folder, shrunk):
    return building.build("out.onnx", output="e", runtime="ort")


@pytest.fixture
def no_clock(monkeypatch):
    """Fails where anything is timed."""

    def never(*_):
        raise AssertionError("timed")

    monkeypatch.setattr(module, "interleave", never)


def test_the_recorded_baseline_and_the_engine_in_turn(engine, shrunk):
    result = bench("e", rounds=7, warmup=1)
    assert result.kind == "measured"
    assert [m.name for m in (result.baseline, *result.candidates)] == ["out.dense.onnx", "e"]
    assert result.baseline.model_sha256 == shrunk.dense_sha256
    assert result.candidates[0].model_sha256 == shrunk.model_sha256
    for measured in (result.baseline, *result.candidates):
        assert len(measured.samples_ns) == 7
        assert min(measured.samples_ns) > 0
        assert measured.provider == "CPUExecutionProvider"
        assert measured.threads >= 1
        assert measured.peak_memory_bytes > 100_000
        assert measured.difference.passed
        assert measured.difference.samples >= 2
    assert result.candidates[0].difference.samples == 8
    ratio = result.ratios[0]
    assert ratio.low <= ratio.value <= ratio.high
    assert {"cpu", "cores", "os", "python", "numpy", "onnxruntime", "date"} <= set(
        result.environment
    )
    assert from_json(BenchResult, to_json(result)) == result


def test_several_engines_and_a_named_baseline(engine, folder):
    building.build("out.dense.onnx", output="dense", runtime="ort")
    result = bench(["e", "dense"], "dense", batch=3, threads=1, rounds=2)
    assert [m.name for m in result.candidates] == ["e", "dense"]
    assert len(result.ratios) == 2
    assert {m.batch for m in result.candidates} == {3}
    assert {m.threads for m in result.candidates} == {1}


def test_a_candidate_that_is_wrong_is_never_timed(engine, folder, write_network, no_clock):
    """Another network's engine, itself in order: only the comparison with the baseline tells."""
    write_network(folder / "other.onnx", 4, scale=1.001)
    building.build("other.onnx", output="other", runtime="ort")
    with pytest.raises(UserError, match=r"other does not compute .* differs by 0\.00") as caught:
        bench(["e", "other"], "out.dense.onnx")
    assert "\n" not in str(caught.value)


def test_a_candidate_that_is_wrong_on_the_data_only(engine, folder, monkeypatch, no_clock):
    real = Ort.open

    class Odd:
        def __init__(self, session, odd):
            self.session, self.odd = session, odd
            self.inputs, self.outputs, self.provider = session.inputs, session.outputs, "odd"

        def run(self, feeds):
            found = self.session.run(feeds)
            wrong = self.odd and feeds["input"].max() > 100
            return {k: v * (1.5 if wrong else 1) for k, v in found.items()}

    import contextlib

    @contextlib.contextmanager
    def open_odd(self, engine, options):
        with real(self, engine, options) as session:
            yield Odd(session, engine.path.name == "e")

    monkeypatch.setattr(Ort, "open", open_odd)
    images = np.full((4, 3, 8, 8), 200, np.float32)
    np.savez("data.npz", images=images, labels=np.zeros(4, np.int64))
    with pytest.raises(UserError, match="does not compute what its baseline does"):
        bench("e", data="data.npz")


def test_an_engine_that_was_never_compared_has_no_speed(engine, folder, no_clock):
    building.build("out.onnx", runtime="null", output="null")
    with pytest.raises(UserError, match="has no speed"):
        bench("null", "out.dense.onnx")


def test_a_recorded_difference_that_failed_has_no_speed(engine, folder, no_clock):
    file = folder / "e" / "manifest.json"
    data = json.loads(file.read_text())
    data["difference"]["max_rel"] = 0.5
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="has no speed"):
        bench("e")


def test_accuracy_and_changed_predictions_over_all_images(engine, folder):
    images = np.random.default_rng(3).standard_normal((123, 3, 8, 8)).astype(np.float32)
    predicted = Evaluator(Path("out.onnx")).run({"input": images})["output"].argmax(1)
    labels = predicted.copy()
    labels[:23] = (labels[:23] + 1) % 10
    np.savez("data.npz", images=images, labels=labels)
    result = bench("e", data="data.npz", rounds=1)
    for measured in (result.baseline, *result.candidates):
        assert measured.accuracy is not None
        assert measured.accuracy.samples == 123
        assert measured.accuracy.correct == 100
        assert measured.accuracy.changed_predictions == 0
    assert result.candidates[0].difference.samples == 8 + 123


def test_pixels_are_normalised_as_the_recognised_architecture_does(engine, folder):
    from prunedeploy.models import by_name

    pixels = np.random.default_rng(4).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    recipe = by_name("resnet20")
    images = (pixels / 255 - np.array(recipe.mean)) / np.array(recipe.std)
    feeds = {"input": images.transpose(0, 3, 1, 2).astype(np.float32)}
    labels = Evaluator(Path("out.onnx")).run(feeds)["output"].argmax(1)
    np.savez("data.npz", images=pixels, labels=labels)
    accuracy = bench("e", data="data.npz", rounds=1).candidates[0].accuracy
    assert accuracy is not None
    assert accuracy.correct == 60


def test_a_fixed_batch(engine, folder, write_network):
    write_network(folder / "two.onnx", 4, batch="2")
    building.build("two.onnx", output="two", runtime="ort")
    with pytest.raises(UserError, match="takes batches of 2 only: use --batch 2"):
        bench("two", "out.dense.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 3, 8, 8)).astype(np.float32)
    np.savez("data.npz", images=images, labels=np.zeros(5, np.int64))
    result = bench("two", "out.dense.onnx", batch=2, rounds=1, data="data.npz")
    assert result.candidates[0].accuracy == result.baseline.accuracy


def test_another_network_is_refused(engine, folder):
    from prunedeploy.engines.self_check import small_model

    small_model(folder / "foreign.onnx")
    with pytest.raises(UserError, match="is not the same network as its baseline"):
        bench("e", "foreign.onnx")


def test_without_a_baseline(engine, folder):
    building.build("out.dense.onnx", output="dense", runtime="ort")
    with pytest.raises(UserError, match="--baseline"):
        bench("dense")
    with pytest.raises(UserError, match="no such baseline"):
        bench("e", "none.onnx")
    with pytest.raises(UserError, match="no engine"):
        bench([])


@pytest.mark.parametrize("options", [{"batch": 0}, {"threads": -1}, {"rounds": 0}, {"warmup": -1}])
def test_numbers_out_of_range(options):
    with pytest.raises(UserError, match="must be at least"):
        bench("e", **options)


def test_the_files_of_a_bench_are_left_alone(engine, folder, leftovers):
    before = {p: sha256(p) for p in folder.rglob("*") if p.is_file()}
    bench("e", rounds=1)
    assert {p: sha256(p) for p in folder.rglob("*") if p.is_file()} == before
    assert not leftovers(folder)
