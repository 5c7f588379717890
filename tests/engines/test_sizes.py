"""Engines for several sizes: one folder, one session, each size compared and dispatched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import any_size
import numpy as np
import pytest

import prunedeploy
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine, RuntimeTime
from prunedeploy.engines import choice, engine_folder
from prunedeploy.engines.sizes import each_engine
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.sparse import numpy_session

SIDES = (8, 12)
SIZES = [{"input": (None, 3, side, side)} for side in SIDES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return any_size.images(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="module")
def sparse(model: Path) -> Engine:
    options = {"batch": (1, 2), "tune": "none", "threads": 1, "baseline": model}
    place = model.with_name("sparse.engine")
    return prunedeploy.build(model, "host", "sparse", place, shapes=SIZES, **options)


@pytest.fixture(scope="module")
def ort(model: Path) -> Engine:
    return prunedeploy.build(model, "host", "ort", model.with_name("ort.engine"), shapes=SIZES)


def images(side: int, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"input": random.standard_normal((batch, 3, side, side)).astype(np.float32)}


def test_the_manifest_lists_the_sizes_and_every_file_of_them(sparse: Engine) -> None:
    manifest = sparse.manifest
    assert [size.folder for size in manifest.sizes] == ["batchx3x8x8", "batchx3x12x12"]
    assert [size.shapes["input"] for size in manifest.sizes] == [
        ("batch", 3, 8, 8),
        ("batch", 3, 12, 12),
    ]
    assert manifest.inputs[0].shape == ("batch", 3, "side", "side")
    assert (manifest.runtime, manifest.batches) == ("sparse", (1, 2))
    files = {str(x.relative_to(sparse.path)) for x in sparse.path.rglob("*") if x.is_file()}
    assert files == {"manifest.json", *manifest.files}
    assert engine_folder.read_engine(sparse.path) == sparse
    worst = max(each.manifest.difference.max_rel for each in each_engine(sparse))
    assert manifest.difference.max_rel == worst <= 1e-5


@pytest.mark.parametrize("runtime", ["sparse", "ort"])
def test_the_session_takes_the_size_of_the_inputs(request, model: Path, runtime: str) -> None:
    engine = request.getfixturevalue(runtime)
    reference = Evaluator(model)
    with prunedeploy.open(engine.path) as session:
        for side, batch in ((8, 1), (12, 2), (8, 3)):  # 3 is computed in pieces
            feeds = images(side, batch)
            (wanted,), (found,) = reference.run(feeds).values(), session.run(feeds).values()
            assert np.abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)
        with pytest.raises(UserError) as caught:
            session.run(images(9))
        assert str(caught.value) == (
            "the engine takes input batch x 3 x 8 x 8 or "
            "input batch x 3 x 12 x 12, found input 1 x 3 x 9 x 9: "
            "build it for that size, too, with --shape"
        )
        with pytest.raises(UserError, match="no input is called 'x'"):
            session.run({"x": images(8)["input"]})
    with pytest.raises(UserError, match="the session is closed"):
        session.run(images(8))


def test_with_numpy_alone(sparse: Engine, model: Path) -> None:
    code = (
        "import numpy, session, sys\n"
        "engine = session.open()\n"
        "for side in (8, 12, 9):\n"
        "    x = numpy.ones((2, 3, side, side), 'float32')\n"
        "    print(*next(iter(engine.run({'input': x}).values())).ravel())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sparse.path, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    for side, line in zip((8, 12), lines, strict=True):
        feeds = {"input": np.ones((2, 3, side, side), np.float32)}
        (wanted,) = Evaluator(model).run(feeds).values()
        assert np.allclose(np.array(line.split(), float), wanted.ravel(), atol=1e-5)
    last = done.stderr.splitlines()[-1]
    assert last.endswith(
        "EngineError: the engine takes input batch x 3 x 8 x 8 or "
        "input batch x 3 x 12 x 12, "
        "found input 2 x 3 x 9 x 9"
    )


def test_numpy_session_refuses_sizes_that_are_not_there(sparse: Engine, tmp_path: Path) -> None:
    manifest = json.loads((sparse.path / "manifest.json").read_text())
    manifest["sizes"][0]["folder"] = ".."
    manifest["files"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(numpy_session.EngineError, match="names sizes that it has not"):
        numpy_session.open(tmp_path)


def test_each_size_is_an_engine_of_its_own(sparse: Engine, capsys) -> None:
    small = sparse.path / "batchx3x8x8"
    with prunedeploy.open(small) as session:
        assert session.inputs[0].shape == ("batch", 3, 8, 8)
    for function, output in (
        (prunedeploy.serve_repo, "repository"),
        (prunedeploy.onnxruntime_model, "node.onnx"),
    ):
        with pytest.raises(UserError, match=r"takes one: name the engine of one, as .*8x8$"):
            function(sparse.path, sparse.path.with_name(output))


def test_a_damaged_size_is_noticed(ort: Engine, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "e"
    shutil.copytree(ort.path, copy)
    (copy / "batchx3x12x12" / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.onnx is not what was built"):
        engine_folder.read_engine(copy)


def test_two_inputs_of_one_length(tmp_path: Path) -> None:
    """What the one states holds for the other, which has the same name of a size."""
    model = any_size.tokens(tmp_path / "tokens.onnx")
    sizes = [{"ids": (1, 4)}, {"ids": (1, 6), "mask": (1, 6, 1)}]
    engine = prunedeploy.build(model, "host", "ort", tmp_path / "e", shapes=sizes)
    assert [size.folder for size in engine.manifest.sizes] == ["1x4_1x4x1", "1x6_1x6x1"]
    with prunedeploy.open(engine) as session:
        for length in (4, 6):
            feeds = {
                "ids": np.zeros((1, length), np.int64),
                "mask": np.ones((1, length, 1), np.float32),
            }
            assert session.run(feeds)["output"].shape == (1, length, 6)
        with pytest.raises(UserError, match="length is 6 in input 'mask' and 4 in another"):
            session.run({**feeds, "ids": np.zeros((1, 4), np.int64)})


def test_the_runtime_is_that_of_the_smallest_sum(model: Path, tmp_path, monkeypatch) -> None:
    """The sparse runtime wins one size by a little, and loses the other by a lot."""

    def times(found, batch: int, threads: int) -> list[RuntimeTime]:
        side = found[0].request.inputs[0].shape[-1]
        seconds = {"ort": {8: 1.0, 12: 2.0}, "sparse": {8: 0.5, 12: 4.0}}
        names = [one.manifest.runtime for one in found]
        return [RuntimeTime(name, batch, threads, seconds[name][side]) for name in names]

    monkeypatch.setattr(choice, "_times", times)
    engine = prunedeploy.build(model, output=tmp_path / "e", shapes=SIZES, threads=1, tune="none")
    found = engine.manifest.choice
    assert (engine.manifest.runtime, found.runtime, found.sizes) == ("ort", "ort", 2)
    assert {x.runtime: x.seconds for x in found.times} == {"ort": 3.0, "sparse": 4.5}
    own = [each.manifest.choice.times for each in each_engine(engine)]
    assert [[x.seconds for x in each] for each in own] == [[1.0, 0.5], [2.0, 4.0]]


def test_a_size_that_a_runtime_cannot_compute_is_no_size_of_its_engine(
    model: Path, tmp_path, monkeypatch
) -> None:
    from prunedeploy.runtimes.sparse.engine import Sparse

    real = Sparse.build

    def build(self, file, target, directory, options):
        if "12" in str(directory.parent.name) or directory.parent.name == "1":
            raise UserError("not of that side")
        return real(self, file, target, directory, options)

    monkeypatch.setattr(Sparse, "build", build)
    engine = prunedeploy.build(model, output=tmp_path / "e", shapes=SIZES, threads=1, tune="none")
    assert engine.manifest.runtime == "ort"
    (refused,) = engine.manifest.choice.refused
    assert (refused.runtime, refused.reason) == ("sparse", "not of that side")


def test_c_sources_of_each_size(model: Path, tmp_path: Path, capsys) -> None:
    place = tmp_path / "c"
    line = ["build", str(model), "--emit", "c", "--tune", "none", "-o", str(place)]
    assert main([*line, "--shape", "1x3x8x8,1x3x12x12"]) == 0
    assert sorted(x.parent.name for x in place.glob("*/Makefile")) == ["1x3x12x12", "1x3x8x8"]
    assert capsys.readouterr().out.count("build them with: make -C") == 2


@pytest.mark.slow  # times engines, each in a process of its own first
def test_bench_has_a_row_a_size(sparse: Engine, tmp_path: Path, capsys) -> None:
    result = tmp_path / "result.json"
    assert main(["bench", str(sparse.path), "--rounds", "3", "-o", str(result)]) == 0
    printed = capsys.readouterr().out
    for side in SIDES:
        assert f"sparse.engine, batchx3x{side}x{side}" in printed
        assert f"net.onnx, batchx3x{side}x{side} (baseline)" in printed
    data = json.loads(result.read_text())
    assert (data["size"], data["others"][0]["size"]) == ("batchx3x8x8", "batchx3x12x12")
    assert main(["report", str(result)]) == 0
    assert capsys.readouterr().out.count("### Speed, measured, batchx3x") == 2
    one = prunedeploy.bench(sparse.path, rounds=2, shapes={"input": (1, 3, 12, 12)})
    assert (one.size, one.others) == ("", ())
    with pytest.raises(UserError, match="has the sizes batchx3x8x8, batchx3x12x12: state one"):
        prunedeploy.bench(sparse.path, rounds=2, shapes={"input": (1, 3, 9, 9)})


@pytest.mark.slow  # the whole route
def test_optimize_for_several_sizes(model: Path, tmp_path: Path, capsys) -> None:
    line = ["optimize", str(model), "-o", str(tmp_path / "fast"), "--tune", "none", "--rounds", "3"]
    assert main([*line, "--threads", "1", "--shape", "?x3x8x8,?x3x12x12"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for side in SIDES:  # which of the two is said depends on the machine
        size = f"at batchx3x{side}x{side}"
        assert re.search(rf"x faster {size}, |slower {size}: ", printed)
    assert "the same outputs on" in printed
    assert "next: prunedeploy serve" in printed
    page = (tmp_path / "fast" / "report.html").read_text()
    assert page.count("Speed relative to the dense baseline at batchx3x") == 2
    with prunedeploy.open(tmp_path / "fast" / "net.engine") as session:
        for side in SIDES:
            assert session.run(images(side))


def test_requests_are_computed_at_their_size(sparse: Engine) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed (extra serve)")
    import asyncio

    from prunedeploy.serving.http.model import ServedModel
    from prunedeploy.serving.http.options import ServeOptions

    served = ServedModel(sparse, "", replace(ServeOptions(), threads=1), lambda *_: None)
    assert [each["shape"] for each in served.describe()["inputs"]] == [[-1, 3, -1, -1]]

    async def ask(side: int) -> int:
        data = images(side)["input"].ravel().tolist()
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, side, side], "data": data}
        body, _ = await served.infer(json.dumps({"inputs": [tensor]}).encode(), None)
        return len(json.loads(body)["outputs"][0]["data"])

    async def main() -> list[object]:
        served.start()
        try:
            return await asyncio.gather(ask(8), ask(12), ask(9), ask(8), return_exceptions=True)
        finally:
            await served.stop()

    first, second, refused, last = asyncio.run(main())
    assert (first, second, last) == (5, 5, 5)
    assert "found input 1 x 3 x 9 x 9" in str(refused)
