"""ONNX files that are none, not valid, or reach for what is not theirs: one line, status 2.

The same for every command that takes a model.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refused import Folder, small_model


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, capsys)


ONNX_COMMANDS = ("inspect", "shrink", "build", "lower", "predict", "bench", "emit", "bundle")


def onnx_command(name: str, path: str) -> tuple[str, ...]:
    """The command line that gives ``path`` to every command that takes an ONNX model."""
    return {
        "bench": ("bench", path, "--target", "jetson-nano", "--remote", "nobody@127.0.0.1"),
        "emit": ("build", path, "--emit", "c"),
        "bundle": ("build", path, "--target", "jetson-nano"),
    }.get(name, (name, path))


@pytest.mark.parametrize("name", ONNX_COMMANDS)
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Not found</html>\n", b'{"irVersion": 8}', b"ir_version: 8\ngraph {", b"\0" * 64],
    ids=["empty", "html", "json", "textproto", "zeros"],
)
def test_a_file_that_is_no_model(folder: Folder, name: str, content: bytes) -> None:
    Path("net.onnx").write_bytes(content)
    assert "net.onnx" in folder.refused(*onnx_command(name, "net.onnx"))


@pytest.mark.parametrize("name", ONNX_COMMANDS)
def test_a_folder_a_pipe_and_a_device_for_a_model(folder: Folder, name: str) -> None:
    Path("net.onnx").mkdir()
    assert "net.onnx" in folder.refused(*onnx_command(name, "net.onnx"))
    Path("net.onnx").rmdir()
    os.mkfifo("net.onnx")
    assert "net.onnx" in folder.refused(*onnx_command(name, "net.onnx"))
    assert "zero" in folder.refused(*onnx_command(name, "/dev/zero"))


@pytest.mark.parametrize("name", ONNX_COMMANDS)
def test_a_model_that_is_not_valid_is_not_blamed_on_us(folder: Folder, name: str) -> None:
    path = small_model(Path("net.onnx"))
    model = onnx.load(path)
    model.graph.node[2].input[0] = "nowhere"
    onnx.save(model, path)
    line = folder.refused(*onnx_command(name, "net.onnx"))
    assert "net.onnx is not valid ONNX" in line
    assert "reads 'nowhere', which nothing gives" in line


@pytest.mark.parametrize("name", ONNX_COMMANDS)
@pytest.mark.parametrize("location", ["../secret", "link", "fifo", "/dev/zero"])
def test_weights_outside_of_the_models_folder(folder: Folder, name: str, location: str) -> None:
    Path("m").mkdir()
    Path("secret").write_bytes(b"SECRET" * 1000)
    Path("m/link").symlink_to("../secret")
    os.mkfifo("m/fifo")
    path = small_model(Path("m/net.onnx"))
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    assert location in folder.refused(*onnx_command(name, "m/net.onnx"))


@pytest.mark.parametrize("name", ["shrink", "build", "lower", "emit", "bundle"])
def test_a_network_in_training_mode(folder: Folder, name: str) -> None:
    path = small_model(Path("net.onnx"))
    model = onnx.load(path)
    model.graph.node[1].CopyFrom(helper.make_node("Dropout", ["c", "", "t"], ["r"], name="drop"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    onnx.save(model, path)
    line = folder.refused(*onnx_command(name, "net.onnx"))
    assert "the outputs are random: Dropout (drop)" in line
