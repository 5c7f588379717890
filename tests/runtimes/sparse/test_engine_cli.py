"""The commands with sparse engines: build, bench --profile, report, and what they refuse."""

from __future__ import annotations

import json

import pytest
from engines import network

from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.core.measurements import BenchResult
from prunedeploy.core.records import Manifest
from prunedeploy.engines import building, engine_folder
from prunedeploy.measure.bench import bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a sparse engine of it for batches of 1 and 4, and one of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("commands")
    model = network(folder / "net.onnx")
    common = ("--baseline", str(model), "--tune", "none")
    sparse = ("--runtime", "sparse", "--batch", "1,4", "--threads", "2")
    assert main(["build", str(model), *common, *sparse, "-o", str(folder / "e")]) == 0
    ort = ("--runtime", "ort", "-o", str(folder / "ort"))
    assert main(["build", str(model), *common, *ort]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_build_says_what_it_is_for(here, capsys):
    manifest = engine_folder.read_engine("e").manifest
    assert main(["build", "net.onnx", "--runtime", "sparse", "--tune", "none", "-o", "f"]) == 0
    said = capsys.readouterr()
    assert f"for batches of 1, {manifest.threads} threads, {manifest.isa}" in said.out
    assert "same outputs" in said.out
    assert not said.err  # no progress where there is no terminal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "sparse", "--batch", "0"], "'0' are not batch sizes; write them as 1,8,32"),
        (["--runtime", "sparse", "--batch", "1,x"], "are not batch sizes"),
        (["--runtime", "sparse", "--batch", "9999"], "a batch of 9999 cannot be built"),
        (["--runtime", "sparse", "--threads", "5000"], "cannot compute with 5000 threads"),
        (["--runtime", "ort", "--batch", "2"], "ort takes batches of any size"),
        (["--runtime", "ort", "--emit", "c"], "ort has no C sources"),
        (["--emit", "rust"], "is not one of 'c'"),
        (["--within", "1e-4"], "cannot be held within 0.0001: give at most 1e-05"),
        (["--within", "nan"], "cannot be held within nan"),
        (["--within", "1e-6", "--runtime", "null"], "nothing is computed here"),
        (["--within", "1e-6", "--emit", "c"], "--within is for engines that are built"),
        (["--within", "1e-6", "--target", "jetson"], "--within is for engines that are built"),
        (["--tune", "slow"], "is not one of"),
    ],
)
def test_build_refuses(here, capsys, arguments, message):
    before = sorted(here.iterdir())
    assert main(["build", "net.onnx", *arguments, "-o", "new"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said
    assert sorted(here.iterdir()) == before


def test_emit(here, capsys):
    assert main(["build", "net.onnx", "--emit", "c", "--tune", "none", "-o", "src"]) == 0
    assert "make -C src" in capsys.readouterr().out
    assert {"Makefile", "README.md", "model.c", "model.h", "pd_engine.h", "weights.bin"} <= {
        x.name for x in (here / "src").iterdir()
    }
    assert main(["build", "net.onnx", "--emit", "c", "-o", "src"]) == 2


def test_profile(here, capsys):
    command = "bench e --rounds 3 --batch 6 --threads 2 --profile -o result.json"
    assert main(command.split()) == 0
    said = capsys.readouterr().out
    assert "GFLOP/s" in said
    assert "weights that are not zero" in said
    result = from_json(BenchResult, (here / "result.json").read_text())
    (found,) = result.profiles
    assert (found.batch, found.threads, found.rounds) == (6, 2, 3)
    single = json.loads((here / "e" / "layers.json").read_text())["layers"]["1"]
    # 6 is 4, 1 and 1
    assert sum(x.flops for x in found.steps) == 6 * sum(x["flops"] for x in single)
    assert all(x.seconds > 0 for x in found.steps)
    assert {x.name for x in found.steps} >= {x["name"] for x in single}
    assert main(["report", "result.json"]) == 0
    assert "sparse" in capsys.readouterr().out


def test_profile_of_onnxruntime_has_its_nodes(here, capsys):
    line = ["bench", "ort", "--rounds", "3", "--profile", "--threads", "1", "-o", "result.json"]
    assert main(line) == 0
    assert "GFLOP/s" in capsys.readouterr().out
    (found,) = from_json(BenchResult, (here / "result.json").read_text()).profiles
    assert sum("Conv" in step.kind for step in found.steps) == 2
    assert all(step.seconds > 0 for step in found.steps)
    assert len({step.name for step in found.steps}) == len(found.steps)


def test_bench_of_a_batch_it_was_not_built_for(here, tmp_path):
    engine = building.build("net.onnx", "host", "sparse", tmp_path / "e", batch=4, tune="none")
    with pytest.raises(UserError, match="built for batches of 4, not 3"):
        bench(engine.path, "net.onnx", batch=3)


def test_manifests_and_results_of_before(here):
    """Engines and measurements that an older version wrote are read."""
    new = ("batches", "threads", "arch", "isa", "choice")
    manifest = engine_folder.read_engine("ort").manifest
    plain = json.loads(to_json(manifest))
    old = json.dumps({key: value for key, value in plain.items() if key not in new})
    assert from_json(Manifest, old) == manifest
    assert engine_folder.read_engine("e").manifest.batches == (1, 4)


def test_run(here, capsys):
    import numpy as np

    np.save("in.npy", np.ones((5, 5, 9, 9), np.float32))
    assert main(["run", "e", "in.npy", "-o", "sparse.npy", "--threads", "3"]) == 0
    assert main(["run", "ort", "in.npy", "-o", "ort.npy"]) == 0
    sparse, ort = np.load("sparse.npy"), np.load("ort.npy")
    assert np.abs(sparse - ort).max() <= 1e-5 * np.ptp(ort)
