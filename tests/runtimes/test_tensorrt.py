"""TensorRT: dialects as a table, the inspector's reports, what is refused; the rest needs a GPU."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import pytest
from net import Net

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building, opening
from prunedeploy.graph import model as models
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.tensorrt import runtime as tensorrt
from prunedeploy.runtimes.tensorrt.dialects import (
    flags,
    has_float16,
    network_flag,
    trtexec_arguments,
    two_four_layers,
)
from prunedeploy.runtimes.tensorrt.layers import read_layers
from prunedeploy.runtimes.tensorrt.runtime import TensorRT
from prunedeploy.targets import machine
from prunedeploy.targets.tensorrt import DIALECTS, dialect


@pytest.mark.parametrize(
    ("version", "since"),
    [
        ("8.2.1.8", (8, 2)),
        ("8.4.3", (8, 4)),
        ("8.6.1", (8, 5)),
        ("10.0.1", (10, 0)),
        ("10.3.0", (10, 0)),
        ("10.5.0", (10, 5)),
        ("10.16.1.11", (10, 6)),
        ("11.4.0.106", (11, 0)),
    ],
)
def test_every_version_has_its_row(version: str, since: tuple[int, int]) -> None:
    assert dialect(version).since == since


@pytest.mark.parametrize("version", ["7.2.3", "8.0.1", "eight", ""])
def test_no_row_for_what_is_too_old_or_no_version(version: str) -> None:
    with pytest.raises(UserError):
        dialect(version)


def test_rows_are_in_order_and_ours() -> None:
    assert [row.since for row in DIALECTS] == sorted(row.since for row in DIALECTS)
    assert all(11 <= row.opset <= 25 for row in DIALECTS)
    assert [row.ir_version for row in DIALECTS] == sorted(row.ir_version for row in DIALECTS)


def test_targets_take_what_their_tensorrt_reads() -> None:
    """One table: a model that is written for a target is as old as its TensorRT's parser."""
    checked = {}
    for target in targets.TARGETS:
        if target.toolchain is not None:
            library, version = target.toolchain.name.split()
            assert library == "TensorRT"
            row = dialect(version if "." in version else f"{version}.6")
            assert (target.toolchain.opset, target.toolchain.ir_version) == (
                row.opset,
                row.ir_version,
            )
            checked[target.name] = row.ir_version
    assert checked["jetson-nano"] == 7
    assert checked["jetson-orin"] == 9
    assert checked["rtx2080ti"] == 10


@pytest.mark.parametrize(
    ("version", "float16", "sparse", "refit", "expected"),
    [
        ("8.2.1", False, False, False, ()),
        ("8.2.1", True, False, False, ("FP16", "OBEY_PRECISION_CONSTRAINTS")),
        ("8.6.1", True, True, False, ("FP16", "OBEY_PRECISION_CONSTRAINTS", "SPARSE_WEIGHTS")),
        ("10.3.0", True, True, True, ("SPARSE_WEIGHTS", "REFIT")),
        ("11.4.0", True, False, True, ("REFIT",)),
    ],
)
def test_flags_by_version(
    version: str, float16: bool, sparse: bool, refit: bool, expected: tuple[str, ...]
) -> None:
    assert flags(dialect(version), float16=float16, sparse=sparse, refit=refit) == expected


def test_command_lines_by_version() -> None:
    shapes = {"input": ((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))}
    old, middle, new = (
        trtexec_arguments(
            dialect(version),
            "m.onnx",
            "m.plan",
            float16=True,
            sparse=version != "8.2.1",
            shapes=shapes,
            workspace=512,
            timing_cache="t.cache",
            times="times.json",
            profile="profile.json",
            layers="layers.json",
        )
        for version in ("8.2.1", "10.3.0", "11.0.0")
    )
    assert old[:3] == ["--onnx=m.onnx", "--saveEngine=m.plan", "--fp16"]
    assert "--workspace=512" in old
    assert "--memPoolSize=workspace:512" in middle
    assert "--stronglyTyped" in middle
    assert not {"--fp16", "--stronglyTyped"} & set(new)
    assert "--sparsity=enable" in new
    assert "--sparsity=enable" not in old
    for each in (old, middle, new):
        assert "--optShapes=input:4x3x8x8" in each
        assert "--exportLayerInfo=layers.json" in each
    plain = trtexec_arguments(dialect("8.2.1"), "m.onnx", "m.plan")
    assert plain == ["--onnx=m.onnx", "--saveEngine=m.plan"]


def test_two_four_and_float16_are_seen() -> None:
    net = Net(channels=8, size=4, dtype=np.float32)
    first = net.conv("input", (8, 8), name="first")
    fours = net.weights["first.weight"].reshape(8, 2, 4, 3, 3)
    fours[:, :, 1] = 0
    fours[:, :, 3] = 0
    second = net.conv(first, (8, 8), kernel=1, name="second")
    model = net.model(second)
    assert two_four_layers(model) == ("first.weight",)
    net.weights["first.weight"][0, 1, 0, 0] = 1.0
    assert two_four_layers(net.model(second)) == ()
    assert not has_float16(model)
    assert has_float16(Net(dtype=np.float16, channels=3, size=4).model("input")) is False
    half = Net(dtype=np.float16, channels=3, size=4)
    assert has_float16(half.model(half.node("Relu", "input")))


# As the developer guides of 8.2 and 10 show them.
OLD = {
    "Layers": [
        {
            "Name": "res4_0_branch2a_1 + res4_0_branch2a_bn_1",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "res3_3",
                    "Dimensions": [16, 512, 28, 28],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
                }
            ],
            "Outputs": [
                {
                    "Name": "res4_0",
                    "Dimensions": [16, 256, 28, 28],
                    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
                }
            ],
            "ParameterType": "Convolution",
            "Kernel": [1, 1],
            "Weights": {"Type": "Int8", "Count": 131072},
            "AllowSparse": 0,
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
            "TacticValue": "0x11bde0e1d9f2f35d",
        },
        {
            "Name": "__myl_Fc",
            "LayerType": "gemm",
            "Inputs": [{"Name": "a", "Dimensions": [16, 64], "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "b", "Dimensions": [16, 10], "Format/Datatype": "Float"}],
            "TacticName": "sm80_xmma_gemm_sp_f16f16_f16f16_f16_tn",
            "Metadata": "[ONNX Layer: /head/MatMul]\x1e[ONNX Layer: /head/Add]",
        },
    ],
    "Bindings": ["input", "output"],
}
# As the migration guide from 10 to 11 shows it.
NEW = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "Convolution",
            "Inputs": [
                {
                    "Name": "x",
                    "Dimensions": [1, 3, 8, 8],
                    "Format": "Row major linear FP32 format (kLINEAR)",
                    "DataType": "Float",
                }
            ],
            "Outputs": [
                {"Name": "y", "Dimensions": [1, 8, 8, 8], "Format": "LINEAR", "Datatype": "Half"}
            ],
            "TacticName": "",
        }
    ],
    "I/O Tensors": [
        {"Name": "input", "IOMode": "Input", "DataType": "Float", "Dimensions": [1, 3, 8, 8]},
        {"Name": "output", "IOMode": "Output", "DataType": "Float", "Dimensions": [1, 1000]},
    ],
}
PROFILE = [
    {"count": 100},
    {"name": "__myl_Fc", "timeMs": 12.0, "averageMs": 0.12, "medianMs": 0.11, "percentage": 5.0},
    {"name": "res4_0_branch2a_1 + res4_0_branch2a_bn_1", "timeMs": 30.0, "averageMs": 0.3},
]


def test_reports_of_the_older_inspector() -> None:
    first, second = read_layers(json.dumps(OLD), json.dumps(PROFILE))
    assert (first.kind, first.precision, first.median_ms) == ("Convolution", "float16", 0.3)
    assert first.inputs[0].type == "int8"
    assert first.inputs[0].shape == (16, 512, 28, 28)
    assert not first.sparse
    assert second.sparse
    assert second.nodes == ("/head/MatMul", "/head/Add")
    assert (second.kind, second.precision, second.median_ms) == ("gemm", "float32", 0.11)


def test_reports_of_the_newer_inspector() -> None:
    (layer,) = read_layers(json.dumps(NEW))
    assert layer.inputs[0].type == "float32"
    assert layer.inputs[0].format == "Row major linear FP32 format (kLINEAR)"
    assert layer.precision == "float16"
    assert layer.median_ms == 0.0


def test_names_alone_and_nonsense() -> None:
    names = json.dumps({"Layers": ["conv + relu", "__myl_Fc"], "Bindings": ["x"]})
    assert [x.name for x in read_layers(names)] == ["conv + relu", "__myl_Fc"]
    assert read_layers(names, json.dumps(PROFILE))[1].median_ms == 0.11
    assert read_layers(names)[0].precision == ""
    for text in ("{", "[]", "{}", '{"Layers": 1}'):
        with pytest.raises(UserError):
            read_layers(text)
    with pytest.raises(UserError, match="no profile"):
        read_layers(names, "{}")


def test_what_it_refuses_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = TensorRT().refuse
    assert "no CUDA GPU" in (refuse(targets.by_name("x86-avx2")) or "")
    assert "jetson-nano is not at hand" in (refuse(targets.by_name("jetson")) or "")
    monkeypatch.setattr(machine, "gpus", lambda: ("7.5",))
    row = dataclasses.replace(targets.by_name("t4"), arch=platform.machine())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'prunedeploy[tensorrt]'" in (refuse(row) or "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())

    class Library:
        __version__ = "8.2.1"

    monkeypatch.setattr(tensorrt, "_library", lambda: Library)
    assert "8.5 is the oldest" in (refuse(row) or "")
    Library.__version__ = "11.0.0"
    assert refuse(row) is None
    monkeypatch.setattr(machine, "gpus", lambda: ("5.3",))
    assert "no kernels for 5.3" in (
        refuse(dataclasses.replace(row, compute_capability="5.3")) or ""
    )


def test_the_builder_of_a_real_library() -> None:
    """TensorRT-RTX has the same interface, and needs no GPU for this much of it."""
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    builder = library.Builder(library.Logger(library.Logger.ERROR))
    config = builder.create_builder_config()
    wanted = flags(dialect("11.0"), float16=True, sparse=True, refit=True)
    tensorrt.set_flags(library, config, wanted)
    for name in wanted:
        assert config.get_flag(getattr(library.BuilderFlag, name))
    assert not config.get_flag(library.BuilderFlag.TF32)
    typed = library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert network_flag(DIALECTS[-1], library) == 1 << int(typed)
    assert network_flag(DIALECTS[0], library) == 0  # EXPLICIT_BATCH is gone by now


def test_timings_are_kept_and_a_full_disk_is_no_matter(tmp_path: Path) -> None:
    class Cache:
        def serialize(self) -> bytes:
            return b"timings"

    tensorrt.store_timing_cache(Cache(), tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == b"timings"
    (tmp_path / "no").write_text("a file, not a folder")
    tensorrt.store_timing_cache(Cache(), tmp_path / "no" / "file")


@pytest.mark.gpu
def test_it_computes_on_a_gpu(tmp_path: Path) -> None:
    """Every batch that it was built for, others in pieces; the layers read back; closed twice."""
    host = targets.by_name("host")
    if reason := registry.refuse(host, "tensorrt"):
        pytest.skip(reason)
    net = Net(channels=3, size=8, dtype=np.float32)
    model = net.model(net.node("Relu", net.conv("input", (3, 16))))
    models.save(model, tmp_path / "net.onnx")
    built = building.build(tmp_path / "net.onnx", "host", "tensorrt", tmp_path / "engine")
    assert built.manifest.difference is not None
    assert built.manifest.difference.passed
    assert read_layers((built.path / "layers.json").read_text())
    with opening.open(built) as session:
        for batch in (1, 64, 65, 130):
            feeds = {"input": np.ones((batch, 3, 8, 8), np.float32)}
            (found,) = session.run(feeds).values()
            assert found.shape == (batch, 16, 8, 8)
            np.testing.assert_allclose(found, found[:1].repeat(batch, 0), rtol=1e-6)
    with pytest.raises(UserError, match="closed"):
        session.run(feeds)
