"""The C runner of GPU engines, on a false libcuda that the PTX machine stands behind."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import false_cuda
import numpy as np
import onnx_ir as ir
import pytest
from lowered import Small

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.graph import model as models
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.runtimes.sparse.gpu import assemble
from prunedeploy.shrinking.export import to_model

TOLERANCE = 1e-5


def small_net() -> ir.Model:
    """Every kernel there is: strided, grouped, depthwise, pointwise, residual, pools, linear."""
    net = Small()
    x = net.input("n", 3, 14, 14)
    stem = net.node("Relu", net.conv(x, 3, 8, strides=[2, 2]))
    deep = net.node("Relu", net.conv(stem, 8, 8, group=8))
    wide = net.conv(net.node("Relu", net.conv(deep, 8, 12, 1)), 12, 8, 1)
    y = net.node("Relu", net.node("Add", wide, stem))
    y = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.node("Relu", net.conv(y, 8, 8, group=2))
    y = net.node("Flatten", net.node("GlobalAveragePool", y))
    return net.model(net.node("Gemm", y, net.normal(5, 8), net.normal(5), transB=1))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    false_cuda.compile_library(folder)
    return folder


def build(
    model: ir.Model, folder: Path, batches: tuple[int, ...] = (), ptxas: str = "none"
) -> Path:
    file, engine = folder / "net.onnx", folder / "engine"
    models.save(model, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEDEPLOY_PTXAS", ptxas)
        building.build(file, "rtx2080ti", "sparse", engine, batch=batches)
    return engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(small_net(), tmp_path_factory.mktemp("small"), (1, 3))


def feeds_of(batch: int = 1) -> dict[str, np.ndarray]:
    x = np.random.default_rng(batch).standard_normal((batch, 3, 14, 14))
    return {"in0": x.astype(np.float32)}


def agree(found: object, model: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    assert isinstance(found, dict), found
    for name, wanted in Evaluator(model).run(feeds).items():
        assert found[name].shape == wanted.shape
        assert np.abs(found[name] - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_an_engine_computes_its_model(
    engine: Path, library: Path, tmp_path: Path, batch: int
) -> None:
    """Batches that it was not built for in parts that it was; twice the same session."""
    feeds = feeds_of(batch)
    agree(
        false_cuda.run_engine(engine, feeds, tmp_path, library=library, runs=2),
        small_net(),
        feeds,
    )


FAULTS = {
    "no-device": "no NVIDIA GPU: libcuda.so.1 is not here, or has no device",
    "version=10000": "the NVIDIA driver is too old: it has to be of CUDA 10.2 or newer",
    "invalid-ptx": "the NVIDIA driver is too old: it has to be of CUDA 10.2 or newer",
    "capability=53": "the GPU is older than the one the engine was built for",
    "memory=1000": "not enough memory on the GPU",
    "lost=4": "the GPU failed in the middle of a run: open the engine again",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_said_in_one_line(
    engine: Path, library: Path, tmp_path: Path, fault: str
) -> None:
    found = false_cuda.run_engine(engine, feeds_of(), tmp_path, library=library, fault=fault)
    assert found == f"EngineError: {FAULTS[fault]}"


# -- graphs ----------------------------------------------------------------------------------------


def log_of(folder: Path) -> list[str]:
    """What the false driver noted: a word for each module, and for each start of a graph."""
    return (folder / "log").read_text().split()


@pytest.mark.parametrize(("version", "started"), [(0, 0), (10, 2), (11, 2), (12, 2)])
def test_from_the_second_run_on_launches_are_a_graph(
    engine: Path, tmp_path: Path, version: int, started: int
) -> None:
    """By the function that drivers of each version have; without graphs they stay launches."""
    false_cuda.compile_library(tmp_path, version)
    feeds = feeds_of(3)
    agree(
        false_cuda.run_engine(engine, feeds, tmp_path, library=tmp_path, runs=3),
        small_net(),
        feeds,
    )
    assert log_of(tmp_path) == ["ptx"] + ["graph"] * started


@pytest.mark.parametrize("fault", ["no-capture", "no-graph"])
def test_where_a_graph_is_refused_launches_stay(
    engine: Path, library: Path, tmp_path: Path, fault: str
) -> None:
    feeds = feeds_of()
    found = false_cuda.run_engine(engine, feeds, tmp_path, library=library, fault=fault, runs=3)
    agree(found, small_net(), feeds)
    assert log_of(tmp_path) == ["ptx"]


def test_a_gpu_that_is_lost_in_a_graph_is_told(engine: Path, library: Path, tmp_path: Path) -> None:
    """The launches of a run, those that the graph records, then the third of its start."""
    count = len(json.loads((engine / "layers.json").read_text())["layers"]["1"])
    fault = f"lost={2 * count + 3}"
    found = false_cuda.run_engine(
        engine, feeds_of(), tmp_path, library=library, fault=fault, runs=2
    )
    assert found == f"EngineError: {FAULTS['lost=4']}"
    assert log_of(tmp_path) == ["ptx", "graph"]


# -- cubins ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with cubins in several parts."""
    ptxas = os.environ.get("PRUNEDEPLOY_PTXAS") or shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("no ptxas: name that of nvidia-cuda-nvcc-cu12==12.9.* in PRUNEDEPLOY_PTXAS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "PART", 20_000)
        return build(small_net(), tmp_path_factory.mktemp("assembled"), (1, 3), ptxas)


def test_cubins_are_loaded_where_they_fit(assembled: Path, library: Path, tmp_path: Path) -> None:
    feeds = feeds_of(3)
    fault = "cubins=1000,capability=75"
    found = false_cuda.run_engine(assembled, feeds, tmp_path, library=library, fault=fault)
    agree(found, small_net(), feeds)
    log = log_of(tmp_path)
    assert set(log) == {"cubin"}
    assert len(log) > 2


@pytest.mark.parametrize(
    ("fault", "log"),
    [
        ("capability=90", ["ptx"]),
        ("capability=75", ["ptx"]),
        ("cubins=2,capability=75", ["cubin", "cubin", "ptx"]),
    ],
)
def test_where_a_cubin_does_not_load_the_driver_compiles(
    assembled: Path, library: Path, tmp_path: Path, fault: str, log: list[str]
) -> None:
    """A GPU of another generation, a driver that takes no cubin, one that takes two."""
    feeds = feeds_of()
    found = false_cuda.run_engine(assembled, feeds, tmp_path, library=library, fault=fault)
    agree(found, small_net(), feeds)
    assert log_of(tmp_path) == log


def test_an_assembler_that_does_not_know_the_gpu_leaves_the_ptx(
    engine: Path, tmp_path: Path
) -> None:
    false = tmp_path / "ptxas"
    false.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo V99.0 && exit\n'
        "echo \"Value 'sm_75' is not defined for option 'gpu-name'\" >&2; exit 1\n"
    )
    false.chmod(0o755)
    built = build(small_net(), tmp_path, (1, 3), str(false))
    assert (built / "model.so").read_bytes() == (engine / "model.so").read_bytes()


def test_an_assembler_that_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    false = tmp_path / "ptxas"
    false.write_text("#!/bin/sh\n[ $1 = --version ] && echo V99.0 && exit\necho bad >&2; exit 1\n")
    false.chmod(0o755)
    with pytest.raises(UserError, match=r"^ptxas 99.0 refuses a kernel: bad$"):
        build(small_net(), tmp_path, (), str(false))
    with pytest.raises(UserError, match="PRUNEDEPLOY_PTXAS names /nowhere, which does not run"):
        build(small_net(), tmp_path, (), "/nowhere")


def test_a_machine_without_a_driver_is_told_so(engine: Path, tmp_path: Path) -> None:
    if Path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists():
        pytest.skip("this machine has an NVIDIA driver")
    found = false_cuda.run_engine(engine, feeds_of(), tmp_path, library=None)
    assert found == f"EngineError: {FAULTS['no-device']}"
    with pytest.raises(UserError, match="cannot start the engine: no NVIDIA GPU"):
        prunedeploy.open(engine)


def test_a_build_is_reproducible(engine: Path, tmp_path: Path) -> None:
    again = build(small_net(), tmp_path, (1, 3))
    for name in ("model.ptx", "model.so", "layers.json"):
        assert (again / name).read_bytes() == (engine / name).read_bytes()


def test_the_missing_operator_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    net = Small()
    model = net.model(net.node("Sin", net.input("n", 5)))
    with pytest.raises(UserError, match=r"Map .*on a GPU: no kernel computes sin"):
        build(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def words_net() -> ir.Model:
    """Embeddings of integers, attention over them, a normalisation."""
    net = Small()
    x = net.node("Gather", net.normal(9, 12), net.input("n", 5, dtype=np.int64))
    scores = net.node("MatMul", x, net.node("Transpose", x, perm=[0, 2, 1]))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), x)
    y = net.node("LayerNormalization", net.node("Add", x, y), net.normal(12), net.normal(12))
    return net.model(net.node("Gelu", y))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(words_net(), tmp_path_factory.mktemp("words"), (2,))


def test_integers_choose_rows(words: Path, library: Path, tmp_path: Path) -> None:
    feeds = {"in0": np.array([[0, 8, -1, 3, 3], [-9, 1, 2, 4, 5]])}
    agree(false_cuda.run_engine(words, feeds, tmp_path, library=library), words_net(), feeds)


@pytest.mark.parametrize("index", [9, -10, 2**40])
def test_an_index_outside_of_the_table_is_said(
    words: Path, library: Path, tmp_path: Path, index: int
) -> None:
    feeds = {"in0": np.array([[0, 8, -1, 3, 3], [0, 1, index, 4, 5]])}
    found = false_cuda.run_engine(words, feeds, tmp_path, library=library)
    assert found == "EngineError: an input holds an index that its table does not have"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["bert", "vit"])
def test_transformers_whole(network: str, library: Path, tmp_path: Path) -> None:
    import torch
    from encoders import Encoder, Vision

    torch.manual_seed(0)
    path = tmp_path / "exported.onnx"
    if network == "bert":
        ids, mask = torch.randint(0, 50, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
        mask[0, 5:] = 0
        torch.onnx.export(Encoder(layers=1).eval(), (ids, mask), path, dynamo=True, verbose=False)
        arguments = (ids.numpy(), mask.numpy())
        model = models.load(path)
    else:
        model = to_model(Vision(layers=1).eval(), (1, 3, 32, 32))
        arguments = (np.random.default_rng(0).random((1, 3, 32, 32), np.float32),)
    names = [str(value.name) for value in model.graph.inputs]
    feeds = dict(zip(names, arguments, strict=True))
    built = build(model, tmp_path)
    agree(false_cuda.run_engine(built, feeds, tmp_path, library=library), model, feeds)


@pytest.mark.slow
def test_resnet_20_whole(library: Path, tmp_path: Path) -> None:
    import torch

    from prunedeploy.models import by_name

    torch.manual_seed(0)
    module = by_name("resnet20").factory().eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight *= torch.rand_like(layer.weight) < 0.15
    model = to_model(module, (1, 3, 32, 32))
    feeds = {name_of(model): np.random.default_rng(0).random((1, 3, 32, 32), np.float32)}
    built = build(model, tmp_path)
    agree(false_cuda.run_engine(built, feeds, tmp_path, library=library), model, feeds)


@pytest.mark.slow
def test_mobilenet_v1_whole(library: Path, tmp_path: Path, real_data: Path) -> None:
    """Real weights, 90 % zeros, on a small image."""
    from prunedeploy.models.mobilenet_v1 import from_npz

    path = real_data / "mobilenet_v1_imagenet_s90.npz"
    if not path.is_file():
        pytest.skip(f"no real weights: {path.name}")
    model = to_model(from_npz(path).eval(), (1, 3, 64, 64))
    feeds = {name_of(model): np.random.default_rng(0).random((1, 3, 64, 64), np.float32)}
    built = build(model, tmp_path)
    agree(false_cuda.run_engine(built, feeds, tmp_path, library=library), model, feeds)


def name_of(model: ir.Model) -> str:
    return str(model.graph.inputs[0].name)
