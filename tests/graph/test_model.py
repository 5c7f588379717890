"""Reading models: sizes, shapes, broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.graph import validity


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
    validity.check_form(model)
    model.graph[0].attributes["group"] = models.ir.AttrString("group", "two")
    with pytest.raises(UserError, match="not valid ONNX"):
        validity.check_form(model)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights lie in a file beside it."""
    net = Net(channels=5)
    path = tmp_path / "net.onnx"
    ir.save(net.model(net.conv("input", (5, 40))), path, external_data="weights.bin")
    return path


def test_a_copy_of_a_model_does_not_need_the_files_of_the_original(
    external: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "copy.onnx"
    copy.parent.mkdir()
    models.save(models.load(external), copy)
    (tmp_path / "weights.bin").unlink()
    assert models.data_files(copy) == []
    assert models.load(copy).graph.initializers["conv0.weight"].const_value.numpy().any()


def test_a_model_is_saved_while_its_weights_are_in_use(external: Path, tmp_path: Path) -> None:
    """The arrays of weights in a file are views of its mapping, which cannot be closed then."""
    model = models.load(external)
    arrays = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value]
    models.save(model, tmp_path / "copy.onnx")
    copied = onnx.load(tmp_path / "copy.onnx").graph.initializer
    assert len(arrays) == len(copied) > 0
    for array, tensor in zip(arrays, copied, strict=True):
        np.testing.assert_array_equal(array, onnx.numpy_helper.to_array(tensor))


def test_large_weights_go_to_a_file_beside_the_model(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 1000)
    copy = tmp_path / "copy.onnx"
    models.save(models.load(external), copy)
    assert models.data_files(copy) == [tmp_path / "copy.onnx.data"]
    assert models.stats(copy).file_bytes > models.weight_bytes(models.load(copy))


def test_the_hash_of_a_model_covers_its_weights(external: Path, tmp_path: Path) -> None:
    before = models.sha256(external)
    weights = tmp_path / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[7] ^= 1
    weights.write_bytes(data)
    assert models.sha256(external) != before


def test_released_weights_can_still_be_read(external: Path) -> None:
    tensor = models.load(external).graph.initializers["conv0.weight"].const_value
    before = tensor.numpy().copy()
    models.release(tensor)
    assert (tensor.numpy() == before).all()
