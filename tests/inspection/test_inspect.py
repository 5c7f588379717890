"""Inspection of ONNX models and of checkpoints, with zeros placed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.core.errors import UserError
from prunedeploy.graph.layers import Layer
from prunedeploy.inspection.inspect import Inspection, inspect
from prunedeploy.models import by_name


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.5, 1.0, shape).astype(np.float32)


def save(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], channels: int
) -> Path:
    """A model of one input ``x`` (n, channels, 8, 8) and one output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("private", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def layer(found: Inspection, name: str) -> Layer:
    return next(x for x in found.layers if x.name == name)


def gain(found: Inspection, engine: str) -> str:
    return next(x.gain for x in found.outlook if x.engine == engine)


def test_convolution(tmp_path: Path) -> None:
    weight = rand(8, 4, 3, 3)
    weight[1:4] = 0
    weight[:, 2] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    found = inspect(save(tmp_path / "m.onnx", [node], {"w": weight}, 4))
    conv = layer(found, "w")
    assert (conv.op, conv.shape, conv.groups) == ("Conv", (8, 4, 3, 3), 1)
    assert (conv.pattern.dead_outputs, conv.pattern.dead_inputs) == (3, 1)
    assert conv.macs == found.totals.macs == 8 * 4 * 9 * 64
    assert found.totals.nonzero_macs == 5 * 3 * 9 * 64
    assert gain(found, "shrink").startswith("3 output channels are zero, 1 input channels are")
    assert f"{1 - 15 / 32:.1%} of the weights" in gain(found, "shrink")


def test_transposed_grouped_convolution(tmp_path: Path) -> None:
    weight = rand(8, 3, 2, 2)  # inputs, outputs / groups; 2 groups
    weight[5] = 0  # one input
    weight[:4, 1] = 0  # one output of the first group
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2, strides=[2, 2])
    found = inspect(save(tmp_path / "m.onnx", [node], {"w": weight}, 8))
    pattern = layer(found, "w").pattern
    assert (pattern.outputs, pattern.dead_outputs) == (6, 1)
    assert (pattern.inputs, pattern.dead_inputs) == (8, 1)


@pytest.mark.parametrize("form", ["gemm", "gemm_transposed", "matmul", "matmul_of_transpose"])
def test_linear_layers_agree_in_every_form(tmp_path: Path, form: str) -> None:
    weight = rand(10, 256)  # outputs, inputs
    weight[[2, 3]] = 0
    weight[:, 5] = 0
    flat = helper.make_node("Flatten", ["x"], ["f"])
    stored = weight if form in ("gemm_transposed", "matmul_of_transpose") else weight.T.copy()
    nodes = {
        "gemm": [helper.make_node("Gemm", ["f", "w"], ["y"])],
        "gemm_transposed": [helper.make_node("Gemm", ["f", "w"], ["y"], transB=1)],
        "matmul": [helper.make_node("MatMul", ["f", "w"], ["y"])],
        "matmul_of_transpose": [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["f", "t"], ["y"]),
        ],
    }[form]
    found = inspect(save(tmp_path / "m.onnx", [flat, *nodes], {"w": stored}, 4))
    pattern = layer(found, "w").pattern
    assert (pattern.outputs, pattern.dead_outputs) == (10, 2)
    assert (pattern.inputs, pattern.dead_inputs) == (256, 1)


def test_zero_batchnorm_scales_are_counted_apart(tmp_path: Path) -> None:
    scale = rand(4)
    scale[[0, 3]] = 0
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    weights = {"w": rand(4, 2, 1, 1), "s": scale, "b": rand(4), "m": rand(4), "v": rand(4)}
    found = inspect(save(tmp_path / "m.onnx", nodes, weights, 2))
    assert (found.totals.dead_scales, found.totals.dead_outputs) == (2, 0)
    assert (found.totals.weights, found.totals.parameters) == (8, 8 + 16)
    assert "2 BatchNorm scales are zero" in gain(found, "shrink")


def test_outlook_of_a_dense_and_of_a_two_four_model(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    weight = rand(8, 8, 1, 1)
    found = inspect(save(tmp_path / "dense.onnx", [node], {"w": weight}, 8))
    assert gain(found, "shrink").startswith("nothing to remove")
    assert gain(found, "sparse").startswith("nothing")
    assert gain(found, "tensorrt").startswith("nothing")
    for row in range(8):  # not the same two columns in each row: no dead input
        weight[row, [row % 4, (row + 1) % 4, 4 + row % 4, 4 + (row + 2) % 4]] = 0
    found = inspect(save(tmp_path / "24.onnx", [node], {"w": weight}, 8))
    assert gain(found, "tensorrt").startswith("1 of 1 layers are 2:4 sparse")
    assert "at most 2.00 times fewer multiply-accumulates" in gain(found, "sparse")
    assert gain(found, "shrink").startswith("nothing to remove")


def test_unknown_operators_do_not_matter(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], domain="private"),
        helper.make_node("Conv", ["m", "w"], ["y"]),
    ]
    found = inspect(save(tmp_path / "m.onnx", nodes, {"w": rand(4, 4, 1, 1)}, 4))
    assert [x.name for x in found.layers] == ["w"]


def test_external_weights_stay_on_disk_until_they_are_counted(tmp_path: Path) -> None:
    weight = rand(8, 4, 3, 3)
    weight[0] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"w": weight}, 4)
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w.bin")
    assert layer(inspect(path), "w").pattern.dead_outputs == 1


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such"):
        inspect(tmp_path / "absent.onnx")


# -- checkpoints ---------------------------------------------------------------------------------


def resnet20() -> dict[str, torch.Tensor]:
    layout = by_name("resnet20").layout()
    return {name: torch.full(shape, 0.5) for name, shape in layout.items()}


def test_recognised_checkpoint_is_measured_as_its_network(tmp_path: Path) -> None:
    state = resnet20()
    state["layer1.0.conv1.weight"][[0, 5]] = 0
    state["layer1.0.bn1.weight"][[0, 5, 7]] = 0
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "net.pt")
    found = inspect(tmp_path / "net.pt")
    assert (found.kind, found.arch) == ("checkpoint", "resnet20")
    assert layer(found, "layer1.0.conv1.weight").pattern.dead_outputs == 2
    assert (found.totals.dead_outputs, found.totals.dead_scales) == (2, 3)
    assert found.totals.macs == 40_551_040  # He et al. 2015, table 6, counts 41 million
    assert layer(found, "linear.weight").macs == 640
    # by hand: convolutions and head 268,336, its bias 10, BatchNorm 2 x 688
    assert found.totals.parameters == 268_336 + 10 + 1_376


def test_checkpoint_and_its_model_agree(tmp_path: Path) -> None:
    from prunedeploy import export, load

    state = resnet20()
    state["layer2.1.conv2.weight"][:, ::3] = 0
    torch.save(state, tmp_path / "net.pt")
    export(load(tmp_path / "net.pt").module, (1, 3, 32, 32), tmp_path / "net.onnx")
    from_checkpoint, from_model = inspect(tmp_path / "net.pt"), inspect(tmp_path / "net.onnx")
    assert from_checkpoint.totals.macs == from_model.totals.macs
    name = "layer2.1.conv2.weight"
    assert layer(from_checkpoint, name).pattern == layer(from_model, name).pattern


def test_grouped_and_transposed_modules(tmp_path: Path) -> None:
    found = inspect(saved_factory(tmp_path), arch="a_network:make")
    assert layer(found, "down.weight").pattern.dead_inputs == 1
    assert layer(found, "down.weight").groups == 4
    assert (layer(found, "up.weight").pattern.outputs, layer(found, "up.weight").groups) == (6, 2)
    assert not any(x.name.startswith("words") for x in found.layers)
    assert found.totals.macs is None  # nobody said the input shape


def saved_factory(folder: Path) -> Path:
    """A checkpoint and, importable in the current folder, the factory of its network."""
    down, up = torch.ones(4, 1, 3, 3), torch.ones(4, 3, 2, 2)
    down[2] = 0
    torch.save(
        {"down.weight": down, "up.weight": up, "words.weight": torch.ones(9, 4)}, folder / "n.pt"
    )
    (folder / "a_network.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Module()\n"
        "    net.down = nn.Conv2d(4, 4, 3, groups=4, bias=False)\n"
        "    net.up = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)\n"
        "    net.words = nn.Embedding(9, 4)\n"
        "    return net\n"
    )
    return folder / "n.pt"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_unknown_network_is_measured_from_its_weights(tmp_path: Path) -> None:
    weight = torch.ones(6, 4, 3, 3)
    weight[1], weight[:, 2] = 0, 0
    scale = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    state = {
        "a.weight": weight,
        "b.weight": scale,
        "b.running_var": torch.ones(6),
        "c.bias": torch.ones(3),
        "c.weight": torch.full((3, 6), float("nan")),
        "steps": torch.tensor(7),
    }
    torch.save(state, tmp_path / "net.pt")
    found = inspect(tmp_path / "net.pt")
    assert found.arch is None
    assert [x.op for x in found.layers] == ["Conv2d", "BatchNorm", "Linear"]
    assert (found.totals.dead_outputs, found.totals.dead_inputs) == (1, 1)
    assert (found.totals.dead_scales, found.totals.nonfinite) == (1, 18)


def test_named_network_must_fit(tmp_path: Path) -> None:
    torch.save(resnet20(), tmp_path / "net.pt")
    with pytest.raises(UserError, match="it is no vgg11"):
        inspect(tmp_path / "net.pt", arch="vgg11")


def test_masks_count_as_zeros(tmp_path: Path) -> None:
    mask = torch.ones(4, 4)
    mask[0] = 0
    torch.save({"a.weight_orig": torch.ones(4, 4), "a.weight_mask": mask}, tmp_path / "net.pt")
    assert inspect(tmp_path / "net.pt").totals.dead_outputs == 1


def test_hints_from_data(tmp_path: Path) -> None:
    """Of six channels one is dead, one never fires on these images, and one on none at all."""
    random = np.random.default_rng(0)
    a = np.abs(random.standard_normal((6, 3, 3, 3))).astype(np.float32)
    a[0] = 0
    bias = np.array([0.5, -9.0, 0, 0, 0, 0], np.float32)  # a sum of 27 weights can exceed 9
    a[5] *= -1  # pixels are not negative
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "d"], ["y"]),
    ]
    d = rand(4, 6, 1, 1)
    model = save(tmp_path / "m.onnx", nodes, {"a": a, "b": bias, "d": d}, 3)
    images = random.uniform(0, 0.2, (7, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(7, np.int64))
    before = model.read_bytes()
    assert inspect(model).hints == ()
    (hint,) = inspect(model, data=tmp_path / "data.npz").hints
    assert (hint.reader, hint.channels, hint.of, hint.samples) == ("d", (1, 5), 6, 7)
    assert model.read_bytes() == before

    proto = onnx.load(model)  # with the range stated, the last one is proved and no longer a hint
    text = '{"x": {"low": [0], "high": [1]}}'
    helper.set_model_props(proto, {"prunedeploy.graph.input_range": text})
    onnx.save(proto, model)
    (hint,) = inspect(model, data=tmp_path / "data.npz").hints
    assert hint.channels == (1,)


def test_hints_need_fitting_data(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = save(tmp_path / "m.onnx", [node], {"w": rand(4, 3, 3, 3)}, 3)
    with pytest.raises(UserError, match="no such file"):
        inspect(model, data=tmp_path / "none.npz")
    with pytest.raises(UserError, match="both mean and std"):
        inspect(model, data=tmp_path / "none.npz", mean=(0.5,))


def test_hints_for_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = by_name("resnet20").factory()
    module.layer1[0].bn1.bias.data[:2] = -50.0
    torch.save(module.state_dict(), tmp_path / "net.pt")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(3, np.int64))
    found = inspect(tmp_path / "net.pt", data=tmp_path / "data.npz").hints
    assert any(x.reader == "layer1.0.conv2" and x.channels[:2] == (0, 1) for x in found)
