"""The runtime that an engine is built with where none is named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from engines import network
from net import Net
from typer.testing import CliRunner

from prunedeploy import targets
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.core.records import Manifest, RuntimeTime
from prunedeploy.engines import building, choice, engine_folder, opening
from prunedeploy.graph import model as models
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.ort.cpu import Ort


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "SECONDS", 0.2)
    network(tmp_path / "net.onnx")
    return tmp_path


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Runs on the most threads take this long; on one thread always the same."""

    def times(found, batch: int, threads: int) -> list[RuntimeTime]:
        return [
            RuntimeTime(
                one.manifest.runtime,
                batch,
                threads,
                seconds[one.manifest.runtime] if threads > 1 else 1.0,
            )
            for one in found
        ]

    monkeypatch.setattr(choice, "_times", times)


def unsupported(path: Path) -> Path:
    """A model with an operator that the sparse runtime lacks."""
    net = Net(3, 8, dtype=np.float32, batch=1)
    models.save(net.model(net.node("Det", net.conv("input", (3, 4)))), path)
    return path


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"ort": 2.0, "sparse": 1.0}, "sparse"),
        ({"ort": 1.0, "sparse": 2.0}, "ort"),
        ({"ort": 1.0, "sparse": 0.99}, "ort"),  # not clearly faster: the stock runtime
    ],
)
def test_the_fastest_on_the_threads_that_are_asked_for(folder, monkeypatch, seconds, taken):
    timed(monkeypatch, **seconds)
    engine = building.build("net.onnx", threads=2, tune="none")
    assert engine.manifest.runtime == taken
    assert engine.path == Path(f"net.host.{taken}.engine")
    found = engine.manifest.choice
    assert found is not None
    assert (found.kind, found.runtime, found.refused) == ("measured", taken, ())
    assert {(x.runtime, x.threads): x.seconds for x in found.times} == {
        ("ort", 1): 1.0,
        ("sparse", 1): 1.0,
        ("ort", 2): seconds["ort"],
        ("sparse", 2): seconds["sparse"],
    }
    assert engine_folder.read_engine(engine.path) == engine
    assert sorted(x.name for x in folder.iterdir()) == [f"net.host.{taken}.engine", "net.onnx"]


def test_batches_count_alike(folder, monkeypatch):
    """A runtime may win one batch size and lose the other; ONNX Runtime takes any."""
    asked: list[tuple[int, int]] = []

    def times(found, batch: int, threads: int) -> list[RuntimeTime]:
        asked.append((batch, threads))
        fast = {"sparse": 0.5 if batch == 1 else 1.1, "ort": 1.0}
        names = [one.manifest.runtime for one in found]
        return [RuntimeTime(name, batch, threads, fast[name]) for name in names]

    monkeypatch.setattr(choice, "_times", times)
    engine = building.build("net.onnx", batch=(4, 1), threads=3, tune="none")
    assert engine.manifest.runtime == "sparse"
    assert engine.manifest.batches == (1, 4)
    assert asked == [(1, 1), (1, 3), (4, 1), (4, 3)]


def test_measured_for_real(folder):
    engine = building.build("net.onnx", threads=2, tune="none", output="e")
    found = engine.manifest.choice
    assert found is not None
    most = {x.runtime: x.seconds for x in found.times if x.threads == 2}
    assert set(most) == {"ort", "sparse"}
    assert all(0 < seconds < 1 for seconds in most.values())
    assert most[engine.manifest.runtime] <= 1.02 * min(most.values())
    with opening.open(engine) as session:
        (found,) = session.run({"input": np.ones((1, 5, 9, 9), np.float32)}).values()
    assert found.shape == (1, 10)


def test_a_runtime_that_cannot_compute_the_model_is_named(folder):
    engine = building.build(unsupported(folder / "det.onnx"), tune="none")
    assert engine.manifest.runtime == "ort"
    found = engine.manifest.choice
    assert found is not None
    assert found.times == ()
    refused, parts = found.refused
    assert refused.runtime == "sparse"
    assert refused.reason.startswith("it cannot compute")
    assert parts.runtime == "hybrid"
    assert parts.reason.startswith("no part of the model pays for its cut: Conv")
    assert not any("--runtime" in each.reason for each in found.refused)


def test_without_a_compiler_it_is_said_why_the_stock_runtime_was_taken(folder, monkeypatch):
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "ziglang" else find(name)
    )
    done = CliRunner().invoke(app, ["build", "net.onnx"])
    assert done.exit_code == 0, done.output
    assert "net.host.ort.engine" in done.output
    assert "not sparse: no C compiler found: install gcc" in done.output


def test_a_runtime_that_computes_something_else_is_not_raced(folder, monkeypatch):
    class Wrong(Ort):
        def open(self, engine, options):
            session = super().open(engine, options)
            run = session.run
            session.run = lambda feeds: {k: v + 1.0 for k, v in run(feeds).items()}
            return session

    monkeypatch.setattr("prunedeploy.runtimes.ort.cpu.Ort", Wrong)
    engine = building.build("net.onnx", tune="none")
    assert engine.manifest.runtime == "sparse"
    (refused,) = engine.manifest.choice.refused
    assert "computes something else" in refused.reason


def test_no_runtime_at_all(folder, monkeypatch, capsys):
    def fail(self, model, target, directory, options):
        raise UserError("it is Monday")

    monkeypatch.setattr(Ort, "build", fail)
    with pytest.raises(UserError, match=r"ort: it is Monday; sparse: it cannot compute") as caught:
        building.build(unsupported(folder / "det.onnx"))
    assert "\n" not in str(caught.value)
    assert sorted(x.name for x in folder.iterdir()) == ["det.onnx", "net.onnx"]


def test_elsewhere_by_prediction(folder):
    row = targets.by_name("x86-avx2")
    found = choice.predicted([Path("net.onnx")], row, ("ort", "sparse"), BuildOptions())
    assert found.kind == "predicted"
    assert {x.runtime for x in found.times} == {"ort", "sparse"}
    assert found.runtime == min(found.times, key=lambda x: x.seconds).runtime
    unknown = choice.predicted([Path("net.onnx")], row, ("tensorrt-rtx",), BuildOptions())
    assert unknown.runtime == "tensorrt-rtx"
    assert unknown.refused[0].runtime == "tensorrt-rtx"


def test_a_named_runtime_is_not_compared(folder, monkeypatch):
    monkeypatch.setattr(choice, "_times", None)
    engine = building.build("net.onnx", runtime="ort")
    assert engine.manifest.choice is None
    text = json.loads(to_json(engine.manifest))
    del text["choice"]  # as older versions wrote it
    assert from_json(Manifest, json.dumps(text)) == engine.manifest


def test_a_place_that_is_taken_by_something_else_is_seen_before_anything_is_built(folder):
    (folder / "net.host.sparse.engine").mkdir()
    (folder / "net.host.sparse.engine" / "mine").touch()
    with pytest.raises(UserError, match="is not an engine"):
        building.build("net.onnx")


def test_the_command_shows_the_race(folder, monkeypatch):
    timed(monkeypatch, ort=2e-3, sparse=5e-4)
    done = CliRunner().invoke(app, ["build", "net.onnx", "--threads", "2", "--tune", "none"])
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "sparse (taken) 1e+03 0.5 4.00x" in lines
    assert "ort 1e+03 2 1.00x" in lines
    assert max(map(len, done.output.splitlines())) < 140
    done = CliRunner().invoke(app, ["build", str(unsupported(folder / "det.onnx"))])
    assert "not sparse: it cannot compute" in done.output
