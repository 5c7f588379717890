"""The model and the dense baseline that an engine comes from."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import onnx
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import to_json
from prunedeploy.engines import building, sources


def test_without_a_model_the_newest_result_is_taken_and_named(folder, shrunk, write_network):
    write_network(folder / "plain.onnx", 4)  # newer, but no result of shrink
    (folder / "plain.json").write_text("[1, 2]")
    (folder / "other.json").write_bytes(b"\xff\xfe")
    said: list[str] = []
    engine = building.build(progress=said.append, runtime="ort")
    assert engine.manifest.model_sha256 == shrunk.model_sha256
    assert "out.onnx" in said[0]
    shutil.copy("out.onnx", "newer.onnx")
    shutil.copy("out.json", "newer.json")
    os.utime("newer.json", ns=(2**62, 2**62))
    assert sources.newest_result(Path()) == Path("newer.onnx")


def test_without_a_model_and_without_a_result(folder):
    with pytest.raises(UserError, match="no result of `prunedeploy shrink`"):
        building.build(runtime="ort")


def test_the_dense_baseline_comes_from_the_record_beside_the_model(folder, shrunk):
    (folder / "deep").mkdir()
    engine = building.build("out.onnx", output="deep/e", runtime="ort")
    assert engine.manifest.baseline == "../../out.dense.onnx"
    assert sources.baseline_of(engine) == shrunk.dense
    assert sources.shrink_result_of(engine) == shrunk
    shrunk.dense.write_bytes(b"other")
    with pytest.raises(UserError, match="is not the dense baseline any more"):
        sources.baseline_of(engine)
    shrunk.dense.unlink()
    with pytest.raises(UserError, match="is gone"):
        sources.baseline_of(engine)


def test_a_dense_model_of_any_name_and_place_is_found(folder, shrunk):
    """Of an ONNX file that was shrunk, the dense model is that file itself."""
    (folder / "far").mkdir()
    dense = shrunk.dense.rename(folder / "far" / "source.onnx")
    record = dataclasses.replace(shrunk, dense=dense)
    (folder / "out.json").write_text(to_json(record))
    assert sources.baseline_of(building.build("out.onnx", output="e", runtime="ort")) == dense
    dense.rename(folder / "source.onnx")  # moved along with the model
    moved = building.build("out.onnx", output="e", runtime="ort")
    assert sources.baseline_of(moved) == folder / "source.onnx"


def test_a_dense_model_that_is_gone_is_said(folder, shrunk):
    shrunk.dense.unlink()
    said: list[str] = []
    assert building.build("out.onnx", progress=said.append, runtime="ort").manifest.baseline is None
    assert any("out.dense.onnx is not what shrink wrote" in line for line in said)


def test_a_record_that_names_no_dense_model(folder, shrunk):
    record = folder / "out.json"
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "dense": ""}))
    assert building.build("out.onnx", runtime="ort").manifest.baseline is None


def test_a_baseline_that_was_named_counts(folder, shrunk):
    engine = building.build("out.dense.onnx", baseline="out.onnx", runtime="ort")
    assert sources.baseline_of(engine) == shrunk.model
    with pytest.raises(UserError, match="no such baseline"):
        building.build("out.onnx", baseline="none.onnx", runtime="ort")


def test_a_record_of_another_model_gives_no_baseline_and_says_so(folder, shrunk, write_network):
    write_network(shrunk.model, 5)
    said: list[str] = []
    engine = building.build("out.onnx", progress=said.append, runtime="ort")
    assert engine.manifest.baseline is None
    assert sources.shrink_result_of(engine) is None
    assert any("no dense baseline" in line for line in said)


def test_a_baseline_whose_weights_are_gone_is_none(folder, shrunk):
    dense = onnx.load(shrunk.dense)
    (folder / "far").mkdir()
    beside = {"save_as_external_data": True, "size_threshold": 0, "location": "w.bin"}
    onnx.save(dense, "far/dense.onnx", **beside)
    engine = building.build("out.onnx", baseline="far/dense.onnx", output="e", runtime="ort")
    assert sources.baseline_of(engine) is not None
    (folder / "far" / "w.bin").unlink()
    with pytest.raises(UserError, match="is not the dense baseline any more"):
        sources.baseline_of(engine)
