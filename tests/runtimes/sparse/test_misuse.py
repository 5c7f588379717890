"""What users do that nobody thought of: one clear line, or the right numbers, never a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import build, feed, network, output
from net import Net
from onnx import TensorProto, helper, numpy_helper, save

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.engines import opening
from prunedeploy.graph import model as models
from prunedeploy.runtimes.sparse.codegen import project as projects
from prunedeploy.runtimes.sparse.codegen.project import Project
from prunedeploy.runtimes.sparse.importer.graph import Graph
from prunedeploy.runtimes.sparse.plan.layout import LayoutAssigner
from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import GUARD, MAX_ELEMENTS, planar, plane_stride
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import geometry
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.runtimes.sparse.toolchain.compile import build_library, toolchain
from prunedeploy.targets import by_name

HOST = by_name("host")
SMALL = Project({"steps_0.c": "int pd_one(void) { return 1; }\n"}, b"", "generic", (1,), {})


def convolution(
    shape: tuple[int, ...], weight: tuple[int, ...], seed: int = 0, **attributes: object
) -> ir.Model:
    """One Conv of random weights over ``shape``."""
    values = np.random.default_rng(seed).standard_normal(weight).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "far", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    imports = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((3, 20, 23), (4, 3, 3, 3), {"pads": [150] * 4, "dilations": [150, 150]}),
        ((2, 5, 230), (3, 2, 201, 211), {"pads": [100] * 4}),
        ((2, 30, 30), (0, 2, 3, 3), {}),
        ((0, 20, 20), (3, 0, 3, 3), {}),
    ],
    ids=["far apart", "a large window", "no outputs", "no inputs"],
)
def test_windows_that_reach_far_and_layers_of_nothing(tmp_path, shape, weight, attributes):
    """``build`` compares what the engine computes with the model."""
    save(ir.to_proto(convolution(shape, weight, **attributes)), str(tmp_path / "m.onnx"))
    engine = build(tmp_path / "m.onnx", tmp_path / "e", threads=2)
    assert engine.manifest.difference.max_rel <= 1e-5


def test_tokens_without_features(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "linear")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7, 0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7, 5])],
        [numpy_helper.from_array(np.zeros((0, 5), np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")
    with opening.open(build(tmp_path / "m.onnx", tmp_path / "e")) as session:
        found = output(session, {"x": np.zeros((1, 7, 0), np.float32)})
    assert np.array_equal(found, np.zeros((1, 7, 5)))


def test_a_window_that_reaches_too_far():
    wide = Conv(
        "far", planar(0, (1, 1, 1, 40), 1), planar(1, (1, 1, 1, 40), 1),
        np.ones((1, 1, 1, 70000), np.float32), np.zeros(1, np.float32), pads=(0, 35000, 0, 34999),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"Conv \(far\): its window reaches too far: use --runtime"):
        choose.ranked(wide, "avx512", 2)


def test_tensors_that_32_bits_cannot_count():
    found = lower(convolution((64, 8192, 8192), (1, 64, 1, 1)), 1)
    assert isinstance(found, Refusal)
    assert "is too large" in str(found)
    assert str(MAX_ELEMENTS) in str(found)
    found = lower(convolution((64, 512, 512), (1, 64, 1, 1)), 128)
    assert f"a tensor of {128 * 64 * 512 * 512} elements is too large" in str(found)
    assert not isinstance(lower(convolution((64, 512, 512), (1, 64, 1, 1)), 64), Refusal)


def test_more_constants_than_a_library_holds(monkeypatch, tmp_path):
    monkeypatch.setattr(projects, "MAX_WEIGHTS", 1 << 10)
    with pytest.raises(UserError, match=r"holds 0 MB of constants at the most, .*: use --runtime"):
        build(network(tmp_path / "net.onnx"), tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon", "generic"])
def test_tiles_in_place_read_no_further_than_the_guard(isa):
    """The last tile of a plane is computed whole, whatever lies behind the plane."""
    weight = np.zeros((8, 16, 1, 1), np.float32)
    weight[:, ::8] = 1
    for pixels in (17, 100, 449, 900, 1352, 1500, 1800, 1936, 3136, 12544):
        views = [planar(index, (1, size, 1, pixels), 1) for index, size in enumerate((16, 8))]
        step = Conv("flat", *views, weight, np.zeros(8, np.float32))
        for schedule in choose.candidates(step, isa, 2):
            layout = geometry(step, schedule)
            if schedule.packing == "none":
                assert layout.tiles * layout.tile - plane_stride(pixels) <= GUARD


def test_instances_for_numbers_that_differ_in_a_sign_alone(tmp_path):
    """0.5 is 0x1p-1 and 2 is 0x1p+1: no two kernels may have one name."""
    net = Net(5, 9, 0, np.float32, batch="batch")
    x = net.input
    for alpha, channels in ((0.5, (5, 24)), (2.0, (24, 24)), (0.5, (24, 24))):
        x = net.node("LeakyRelu", net.conv(x, channels), alpha=alpha)
    models.save(net.model(x), tmp_path / "m.onnx")
    engine = build(tmp_path / "m.onnx", tmp_path / "e", threads=2)
    assert engine.manifest.difference.max_rel <= 1e-5


def test_names_stay_different():
    assigner = LayoutAssigner(Graph([]), {})
    names = [assigner.name(name) for name in ("a", "a", "a#2", "a", "b")]
    assert len(set(names)) == len(names)
    assert names[:2] == ["a", "a#2"]


# -- compilers and folders -------------------------------------------------------------------------


def test_a_command_that_is_none(monkeypatch):
    monkeypatch.setenv("PRUNEDEPLOY_CC", "'gcc")
    with pytest.raises(UserError, match="PRUNEDEPLOY_CC is no command: no closing quotation in 'g"):
        toolchain(HOST)
    monkeypatch.setenv("PRUNEDEPLOY_CC", " ")  # as good as not set
    assert toolchain(HOST).name in ("gcc", "clang", "ziglang")


def test_a_program_that_is_no_compiler(tmp_path):
    tools = compiling.Toolchain((shutil.which("true") or "true",), "true", "9.1", "generic", ())
    with pytest.raises(UserError, match=r"true 9.1 wrote nothing: name a C compiler in"):
        build_library(SMALL, tmp_path / "x.so", tools)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_for_what_is_compiled(monkeypatch, tmp_path):
    def full(project: Project, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling, "write", full)
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device; set TMPDIR"):
        build_library(SMALL, tmp_path / "x.so", toolchain(HOST))


def test_nothing_is_left_of_a_compiler_that_is_stopped(monkeypatch, tmp_path):
    """Neither what it started, as gcc starts cc1, nor its temporary files."""
    script = tmp_path / "gcc"
    script.write_text(f"#!/bin/sh\n: > $TMPDIR/cc1.s\nsleep 60 &\necho $! > {tmp_path}/pid\nwait\n")
    script.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(compiling, "TIMEOUT", 0.5)
    tools = compiling.Toolchain((str(script),), "gcc", "9.1", "generic", ())
    with pytest.raises(UserError, match="took longer"):
        build_library(SMALL, tmp_path / "x.so", tools)
    assert not any(temporary.iterdir())
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    for _ in range(100):  # gone, or dead and not yet reaped by whoever inherited it
        if not child.exists() or child.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the compiler started runs on")


# -- sessions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Under a name with spaces and letters from elsewhere."""
    folder = tmp_path_factory.mktemp("ein Ordner mit ß")
    return build(network(folder / "net.onnx"), folder / "größe 2", batch=2, threads=2)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.8])
def test_a_library_that_is_cut_short(engine, tmp_path, share):
    """Under a manifest that agrees: without a look at the file the loader would crash."""
    place = shutil.copytree(engine.path, tmp_path / "e")
    library = place / "model.so"
    data = library.read_bytes()
    library.write_bytes(data[: int(len(data) * share)])
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["model.so"] = sha256(library)
    (place / "manifest.json").write_text(json.dumps(manifest))
    with (
        pytest.raises(UserError, match=r"is (cut short|not a 64-bit .*); build it again here"),
        opening.open(place),
    ):
        pass


def test_profiling_names_what_is_missing(engine):
    with opening.open(engine) as session:
        with pytest.raises(UserError, match="input 'input' is missing"):
            session.profile({})
        with pytest.raises(UserError, match="takes float32, found float64"):
            session.profile({"input": feed(engine, 2)["input"].astype(np.float64)})


def test_a_fork_while_another_thread_computes(engine):
    """The child gets the lock as it was: held by a thread that is not there."""
    with opening.open(engine) as session:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with session._turn:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            signal.alarm(10)  # where it would wait for ever
            status = 1
            try:
                session.run(feed(engine, 2))
            except UserError as error:
                status = 0 if "forked" in str(error) else 2
            session.close()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        done.set()
        thread.join()
        assert output(session, feed(engine, 2)).shape == (2, 10)
