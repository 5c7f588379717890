"""Whatever is given to the command: one clear line, exit status 2, and no half-written output.

Through the real command, in this process for speed; Ctrl-C with a real signal to a real process.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from refused import Folder, small_model
from signals import listen

from prunedeploy.cli import main
from prunedeploy.models import by_name


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, capsys)


# -- networks to spoil ---------------------------------------------------------------------------


def resnet20(path: Path, spoil: Callable[[dict[str, torch.Tensor]], None] | None = None) -> Path:
    """A checkpoint of the CIFAR ResNet-20 with random weights, ``spoil``ed."""
    random = torch.Generator().manual_seed(0)
    layout = by_name("resnet20").layout()
    state = {name: torch.rand(shape, generator=random) * 0.1 for name, shape in layout.items()}
    if spoil is not None:
        spoil(state)
    torch.save({"state_dict": state}, path)
    return path


# -- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["inspect", "shrink"])
@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
def test_truncated_checkpoint(folder: Folder, name: str, keep: float) -> None:
    path = resnet20(Path("net.pt"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "net.pt" in folder.refused(name, path)


@pytest.mark.parametrize("name", ["inspect", "shrink"])
@pytest.mark.parametrize("file", ["empty.pt", "empty.onnx", "empty.safetensors", "empty.pth.tar"])
def test_empty_file(folder: Folder, name: str, file: str) -> None:
    Path(file).touch()
    assert file in folder.refused(name, file)


@pytest.mark.parametrize("name", ["inspect", "shrink", "build"])
@pytest.mark.parametrize("file", ["absent.pt", "absent.onnx", "absent/net.onnx"])
def test_no_such_file(folder: Folder, name: str, file: str) -> None:
    assert file in folder.refused(name, file)


@pytest.mark.parametrize("name", ["inspect", "shrink", "build"])
@pytest.mark.parametrize("file", ["here", "here.onnx"])
def test_folder_for_a_file(folder: Folder, name: str, file: str) -> None:
    Path(file).mkdir()
    assert file in folder.refused(name, file)


class Attack:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, ("echo code was run > MARKER",)


@pytest.mark.parametrize("name", ["inspect", "shrink"])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_pickle_with_code_is_not_run(folder: Folder, name: str, form: str) -> None:
    content = {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "hook": Attack()}
    if form == "plain":
        Path("net.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, "net.pt", _use_new_zipfile_serialization=form == "zip")
    assert "--trust" in folder.refused(name, "net.pt")
    assert not Path("MARKER").exists()


def test_mask_file_with_code_is_not_run(folder: Folder) -> None:
    resnet20(Path("net.pt"))
    torch.save({"conv1.weight": Attack()}, "mask.pt")
    assert "mask.pt" in folder.refused("shrink", "net.pt", "--mask", "mask.pt")
    assert not Path("MARKER").exists()


def test_text_for_a_checkpoint(folder: Folder) -> None:
    Path("net.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "net.pt" in folder.refused("shrink", "net.pt")


def test_checkpoint_without_weights(folder: Folder) -> None:
    torch.save({"epoch": 3}, "net.pt")
    assert "net.pt" in folder.refused("shrink", "net.pt")


def test_architecture_that_is_another(folder: Folder) -> None:
    resnet20(Path("net.pt"))
    assert "vgg11" in folder.refused("shrink", "net.pt", "--arch", "vgg11")


def test_architecture_that_nobody_knows(folder: Folder) -> None:
    resnet20(Path("net.pt"))
    assert "resnet2000" in folder.refused("shrink", "net.pt", "--arch", "resnet2000")


@pytest.mark.parametrize(
    "arch", ["no_such_module_at_all:net", "json:no_such_factory", "json:dumps"]
)
def test_factory_that_cannot_be_had(folder: Folder, arch: str) -> None:
    resnet20(Path("net.pt"))
    assert arch.split(":")[0] in folder.refused("shrink", "net.pt", "--arch", arch)


def test_architecture_that_is_not_recognised_says_how_to_name_it(folder: Folder) -> None:
    torch.save({"mine.weight": torch.ones(3, 3), "mine.bias": torch.ones(3)}, "net.pt")
    assert "--arch" in folder.refused("shrink", "net.pt")


def test_missing_and_unexpected_keys(folder: Folder) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["layer1.0.strange.weight"] = state.pop("layer1.0.conv1.weight")

    resnet20(Path("net.pt"), spoil)
    line = folder.refused("shrink", "net.pt", "--arch", "resnet20")
    assert "layer1.0.conv1.weight" in line
    assert "layer1.0.strange.weight" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(folder: Folder, value: float) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["layer2.0.conv1.weight"][0, 0, 0, 0] = value

    resnet20(Path("net.pt"), spoil)
    assert "layer2.0.conv1.weight" in folder.refused("shrink", "net.pt")


def test_inspect_counts_weights_that_are_not_numbers(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"mine.weight": torch.tensor([[1.0, float("nan")], [0.0, 2.0]])}, "net.pt")
    assert main(["inspect", "net.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["nonfinite"] == 1


@pytest.mark.parametrize("shape", ["3,32,32", "1,1,32,32", "1,3,32"])
def test_input_shape_that_does_not_fit(folder: Folder, shape: str) -> None:
    resnet20(Path("net.pt"))
    folder.refused("shrink", "net.pt", "--input-shape", shape)


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shrink", "build"])
@pytest.mark.parametrize("domain", ["", "private"])
def test_unknown_operator(folder: Folder, name: str, domain: str) -> None:
    small_model(Path("net.onnx"), "Mystery", domain)
    assert "Mystery" in folder.refused(name, "net.onnx")


@pytest.mark.parametrize("name", ["inspect", "shrink", "build"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.01])
def test_truncated_model(folder: Folder, name: str, keep: float) -> None:
    path = small_model(Path("net.onnx"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "net.onnx" in folder.refused(name, path)


@pytest.mark.parametrize("name", ["inspect", "shrink", "build"])
def test_text_for_a_model(folder: Folder, name: str) -> None:
    Path("net.onnx").write_text("<html>Not found</html>\n")
    assert "net.onnx" in folder.refused(name, "net.onnx")


@pytest.mark.parametrize("name", ["inspect", "shrink", "build", "lower", "predict", "bench"])
def test_where_one_is_for_a_file(folder: Folder, name: str) -> None:
    """A path without a name, of which no other name can be made: one line, status 2."""
    folder.refused(name, ".")


@pytest.mark.parametrize("name", ["inspect", "shrink", "build", "lower", "predict", "bench"])
def test_a_model_without_outputs(folder: Folder, name: str) -> None:
    path = small_model(Path("net.onnx"))
    model = onnx.load(path)
    del model.graph.output[:]
    onnx.save(model, path)
    assert "net.onnx" in folder.refused(name, path)


def test_external_weights_that_are_gone(folder: Folder) -> None:
    path = small_model(Path("net.onnx"))
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w")
    Path("w").unlink()
    assert "net.onnx" in folder.refused("shrink", path)


@pytest.mark.parametrize("name", ["shrink", "inspect"])
@pytest.mark.parametrize("option", ["--arch", "--mask", "--weights"])
def test_options_of_checkpoints_with_a_model(folder: Folder, name: str, option: str) -> None:
    small_model(Path("net.onnx"))
    assert f"{option} is for checkpoints" in folder.refused(name, "net.onnx", option, "ema")


def test_nothing_to_build(folder: Folder) -> None:
    assert "prunedeploy shrink" in folder.refused("build")


@pytest.mark.parametrize("option", [("--target", "toaster"), ("--runtime", "abacus")])
def test_unknown_target_or_runtime(folder: Folder, option: tuple[str, str]) -> None:
    small_model(Path("net.onnx"))
    assert option[1] in folder.refused("build", "net.onnx", *option)


# -- where the output is to go -------------------------------------------------------------------


# A folder that nobody may write to does not stop root, who runs tests in containers; a regular
# file in the place of a folder and the kernel's own file systems stop everyone.
@pytest.mark.parametrize("output", ["file/out.onnx", "absent/out.onnx", "/proc/out.onnx", "here"])
def test_shrink_into_a_place_that_cannot_be_written(folder: Folder, output: str) -> None:
    small_model(Path("net.onnx"))
    Path("file").touch()
    Path("here").mkdir()
    assert output.split("/out")[0] in folder.refused("shrink", "net.onnx", "-o", output)


@pytest.mark.parametrize("output", ["file/engine", "absent/engine", "/proc/engine", "file"])
def test_build_into_a_place_that_cannot_be_written(folder: Folder, output: str) -> None:
    small_model(Path("net.onnx"))
    Path("file").write_text("precious")
    assert output.split("/engine")[0] in folder.refused("build", "net.onnx", "-o", output)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_shrink_into_a_read_only_folder(folder: Folder) -> None:
    small_model(Path("net.onnx"))
    Path("locked").mkdir(mode=0o555)
    assert "locked" in folder.refused("shrink", "net.onnx", "-o", "locked/out.onnx")


# -- engines, inputs, results --------------------------------------------------------------------


@pytest.fixture
def engine(folder: Folder, capsys: pytest.CaptureFixture[str]) -> Path:
    small_model(Path("net.onnx"))
    assert main(["build", "net.onnx", "-o", "engine"]) == 0
    capsys.readouterr()
    return Path("engine")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 3, 8, 8), np.float64),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 4, 8, 8), np.float32),
        np.zeros((3, 8, 8), np.float32),
    ],
    ids=["float64", "uint8", "channels", "rank"],
)
def test_input_that_does_not_fit(folder: Folder, engine: Path, array: np.ndarray) -> None:
    np.save("x.npy", array)
    line = folder.refused("run", engine, "x.npy", "-o", "y.npy")
    assert "input" in line
    assert "float32" in line or "3" in line


def test_input_by_another_name(folder: Folder, engine: Path) -> None:
    np.savez("x.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    assert "image" in folder.refused("run", engine, "x.npz", "-o", "y.npy")


@pytest.mark.parametrize("name", ["run", "bench"])
def test_engine_that_is_none(folder: Folder, name: str) -> None:
    np.save("x.npy", np.zeros(3))
    Path("empty").mkdir()
    rest = ("x.npy", "-o", "y.npy") if name == "run" else ()
    for engine in ("empty", "absent", "x.npy"):
        assert engine in folder.refused(name, engine, *rest)


def test_engine_that_was_changed(folder: Folder, engine: Path) -> None:
    payload = max(
        (p for p in engine.iterdir() if p.suffix != ".json"), key=lambda p: p.stat().st_size
    )
    payload.write_bytes(payload.read_bytes()[:-1] + b"?")
    np.save("x.npy", np.zeros((1, 3, 8, 8), np.float32))
    folder.refused("run", engine, "x.npy", "-o", "y.npy")


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, '{"type": "Recipe"}', '{"type": "BenchResult"}']
)
def test_foreign_json_for_a_result(folder: Folder, content: str) -> None:
    Path("result.json").write_text(content)
    assert "result.json" in folder.refused("report", "result.json")


def test_binary_for_a_result(folder: Folder) -> None:
    Path("result.json").write_bytes(bytes(range(256)))
    assert "result.json" in folder.refused("report", "result.json")


def test_data_without_labels(folder: Folder, engine: Path) -> None:
    np.savez("data.npz", something=np.zeros(3))
    assert "data.npz" in folder.refused(
        "bench", engine, "--baseline", "net.onnx", "--data", "data.npz"
    )


# -- Ctrl-C --------------------------------------------------------------------------------------


def large_model(path: Path) -> Path:
    """A hundred megabytes of weights: building takes long enough to be interrupted."""
    rng = np.random.default_rng(0)
    wide, deep = 1448, 12
    names = [f"w{i}" for i in range(deep)]
    weights = {n: rng.standard_normal((wide, wide), np.float32) / 38 for n in names}
    values = ["input", *(f"h{i}" for i in range(1, deep)), "output"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [values[i], names[i]], [values[i + 1]]) for i in range(deep)],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", wide])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", wide])],
        [numpy_helper.from_array(weights[name], name) for name in names],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("name", ["build", "shrink"])
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_leave_nothing_behind(
    tmp_path: Path, name: str, sent: signal.Signals, status: int, said: str
) -> None:
    large_model(tmp_path / "net.onnx")
    before = sorted(tmp_path.rglob("*"))
    line = [sys.executable, "-m", "prunedeploy", name, "net.onnx"]
    process = subprocess.Popen(
        line,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    deadline = time.monotonic() + 180
    while sorted(tmp_path.rglob("*")) == before:  # until it begins to write
        assert process.poll() is None, "done before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    lines = err.splitlines()
    assert (out, lines) == ("", [f"prunedeploy: error: {said}"])
    # CPython ends itself by the signal where that came within an exec of text: as a dataclass is
    # made, say. To a shell the two are one.
    assert process.returncode in (status, -sent)
    assert sorted(tmp_path.rglob("*")) == before
