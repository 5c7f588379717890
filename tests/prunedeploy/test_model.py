"""Reading models: sizes, shapes, broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from net import Net

from prunedeploy import model as models
from prunedeploy.errors import UserError


def test_stats_count_what_is_there(tmp_path: Path) -> None:
    net = Net(channels=3, size=8, dtype=np.float32)
    x = net.conv("input", (3, 4), dead=[0], dead_bias=0.0, strides=[2, 2])  # 4x4 maps
    x = net.conv(x, (4, 4), group=4, kernel=1, bias=None)
    y = net.linear(net.node("Flatten", x), (64, 10))
    path = tmp_path / "a.onnx"
    models.save(net.model(y), path)
    found = models.stats(path)
    assert found.parameters == 4 * 27 + 4 + 4 + 640 + 10
    assert found.nonzero == found.parameters - 27 - 1
    assert found.macs == 4 * 16 * 27 + 4 * 16 + 640
    assert found.file_bytes == path.stat().st_size


def test_specs_leave_out_initializers_listed_as_inputs() -> None:
    net = Net(channels=3)
    model = net.model(net.conv("input", (3, 4), name="a"))
    model.graph.inputs.append(model.graph.initializers["a.weight"])
    inputs, outputs = models.specs(model)
    assert [spec.name for spec in inputs] == ["input"]
    assert inputs[0].shape == ("batch", 3, 7, 7)
    assert outputs[0].shape == ("batch", 4, 7, 7)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(UserError, match="no such model"):
        models.load(path)
    net = Net(channels=3)
    models.save(net.model(net.conv("input", (3, 4))), path)
    whole = path.read_bytes()
    for broken in (b"", b"nonsense" * 9, whole[: len(whole) // 2], whole[:7]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="cannot read"):
            models.load(path)


def test_large_weights_go_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 100)
    net = Net(channels=3)
    path = tmp_path / "a.onnx"
    models.save(net.model(net.conv("input", (3, 40))), path)
    beside = tmp_path / "a.onnx.data"
    assert models.stats(path).file_bytes == path.stat().st_size + beside.stat().st_size
    beside.unlink()
    with pytest.raises(UserError, match="cannot read"):
        models.load(path)


def test_invalid_model_is_refused() -> None:
    net = Net(channels=3)
    model = net.model(net.conv("input", (3, 4)))
    models.check(model)
    model.graph[0].attributes["group"] = models.ir.AttrString("group", "two")
    with pytest.raises(UserError, match="not valid ONNX"):
        models.check(model)
