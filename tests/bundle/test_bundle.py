"""Device bundles: what is in them, that it computes the same, and that nobody takes it for more."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from engines import network

import prunedeploy
from prunedeploy import targets
from prunedeploy.bundle import archive
from prunedeploy.bundle.sparse import DEVICE
from prunedeploy.bundle.write import write_bundle
from prunedeploy.cli import main
from prunedeploy.core import elf
from prunedeploy.core.errors import UserError
from prunedeploy.engines import artifact
from prunedeploy.engines.bundle_record import check, read
from prunedeploy.reference.verify import compare

DATA = Path(__file__).parents[3] / "shared" / "data"
SCRIPTS = ("bench.py", "state.py", "trt.py")
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SYSROOT = Path("/usr/aarch64-linux-gnu")  # of Debian's libc6-arm64-cross
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)
needs_qemu = pytest.mark.skipif(
    platform.machine() != "aarch64" and (QEMU is None or not SYSROOT.is_dir()),
    reason="no aarch64 here: apt install qemu-user-static libc6-arm64-cross",
)
HERE = targets.by_name("x86-avx2")
runs_here = pytest.mark.skipif(
    targets.why_not_here(HERE) is not None or shutil.which("gcc") is None,
    reason="no x86-64 with AVX2 and gcc here",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="module")
def nano(model, tmp_path_factory):
    """A bundle for a machine of another kind."""
    return write_bundle(model, "jetson", tmp_path_factory.mktemp("nano") / "net.bundle")


@pytest.fixture(scope="module")
def near(model, tmp_path_factory):
    """A bundle whose sparse engine runs here; tests copy it before they change it."""
    return write_bundle(model, "x86-avx2", tmp_path_factory.mktemp("near") / "net.bundle", batch=2)


@pytest.fixture
def copy(near, tmp_path):
    return Path(shutil.copytree(near.path, tmp_path / "copy"))


def call(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(x) for x in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def emulated(folder: Path, *arguments: str) -> dict[str, object]:
    """What the aarch64 runner prints."""
    prefix = [] if platform.machine() == "aarch64" else [str(QEMU), "-L", str(SYSROOT)]
    done = call(folder, *prefix, "sparse/runner", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


# -- what is in it ---------------------------------------------------------------------------------


@needs_zig
def test_a_bundle_for_a_jetson_nano(nano):
    found = check(nano.path)
    assert found == nano
    bundle = found.bundle
    assert (bundle.target, bundle.arch, bundle.system) == ("jetson-nano", "aarch64", "TensorRT 8.2")
    assert "nothing in it was built or measured" in bundle.kind
    assert [x.name for x in bundle.models] == ["model.float32", "model.float16"]
    for each in bundle.models:
        loaded = onnx.load(nano.path / each.file)
        onnx.checker.check_model(loaded)
        assert {x.domain: x.version for x in loaded.opset_import}[""] == 13
        assert loaded.ir_version <= 7
        inputs = [x.type.tensor_type.elem_type for x in loaded.graph.input]
        assert inputs == [onnx.TensorProto.FLOAT]  # whatever is inside
    assert bundle.models[0].difference.max_abs == 0.0
    assert 0 < bundle.models[1].difference.max_rel < 1e-2
    names = {x.relative_to(nano.path).as_posix() for x in nano.path.rglob("*") if x.is_file()}
    assert names == {*bundle.files, "bundle.json", "SHA256SUMS"}
    assert os.access(nano.path / "sparse" / "runner", os.X_OK)
    assert "This is a device bundle, not an engine" in (nano.path / "README.md").read_text()
    half = next(x for x in bundle.plans if x.precision == "float16")
    assert {"--fp16", "--workspace=1024", "--buildOnly"} <= set(half.build)
    assert "--optShapes=input:1x5x9x9" in half.build


@needs_zig
def test_nothing_newer_than_the_glibc_of_the_nano(nano):
    programs = [nano.path / "sparse" / name for name in ("model.so", "runner")]
    for path in programs:
        assert elf.machine(path) == "aarch64"
        assert () < elf.glibc(path) <= (2, 27)
        names = set(re.findall(rb"GLIBC_[\d.]+", path.read_bytes()))
        listed = {x for group in elf.needed(path).values() for x in group if x[:6] == "GLIBC_"}
        assert {x.decode() for x in names} == listed
        libraries = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1"}
        assert set(elf.needed(path)) <= libraries
    assert read(nano.path).bundle.sparse.glibc == ".".join(map(str, elf.glibc(*programs)))


# -- it computes the same --------------------------------------------------------------------------


@needs_zig
@needs_qemu
def test_the_runner_on_aarch64(nano, tmp_path):
    said = emulated(
        nano.path, "--check", "check/tensors.txt", "--output", str(tmp_path), "--rounds", "2"
    )
    assert (said["isa"], said["runs"], said["passed"]) == ("neon", 4, True)
    wanted = {"output": np.load(nano.path / "check" / "output_0.npy")}
    difference = compare(wanted, {"output": np.load(tmp_path / "output_0.npy")})
    assert difference.passed
    assert difference.max_rel <= 1e-5
    assert said["max_abs"] == pytest.approx(difference.max_abs)
    assert said["max_rel"] == pytest.approx(difference.max_rel)
    assert len(said["samples_ns"]) == 2


@needs_zig
@needs_qemu
@pytest.mark.slow
def test_a_real_test_image_on_aarch64(tmp_path):
    """ResNet-20 as published, on images it was not trained on: the predictions of this machine."""
    if not DATA.is_dir():
        pytest.skip(f"no {DATA.name} with CIFAR-10 and a trained network")
    done = prunedeploy.shrink(DATA / "resnet20-12fca82f.th", tmp_path / "r20.onnx")
    done.dense.unlink()  # it would only be measured beside it
    with np.load(DATA / "cifar10_test1k_lossless.npz") as data:
        images, labels = data["images"][:2], data["labels"][:2]
    feeds = {"input": ((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)}
    feeds = {name: np.ascontiguousarray(x, np.float32) for name, x in feeds.items()}
    written = write_bundle(
        done.model, "raspberry-pi-5", tmp_path / "r20.bundle", inputs=feeds, threads=2
    )
    said = emulated(
        *(written.path, "--check", "check/tensors.txt", "--output", str(tmp_path)),
        *("--rounds", "1", "--warmup", "0"),
    )
    found = {"output": np.load(tmp_path / "output_0.npy")}
    engine = artifact.build(done.model, "host", "ort", tmp_path / "here")
    with artifact.open(engine) as session:
        difference = compare(session.run(feeds), found)
    assert difference.max_rel <= 1e-5
    assert difference.changed_predictions == said["changed_predictions"] == 0
    assert found["output"].argmax(1).tolist() == labels.tolist()


@runs_here
def test_build_and_bench_where_the_engine_runs(copy):
    assert call(copy, "sh", "build.sh").returncode == 0
    done = call(copy, sys.executable, "bench.py", "--rounds", "5", "--repeats", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((copy / "results" / "result.json").read_text())
    assert result["complete"]
    assert result["identity"]["machine"] == platform.machine()
    (sparse,) = result["candidates"]
    assert sparse["passed"]
    assert len(sparse["samples_ns"]) == 10
    assert min(sparse["samples_ns"]) > 0
    (file,) = sparse["outputs"].values()
    outputs = np.load(copy / "results" / file)
    wanted = np.load(copy / "check" / "output_0.npy")
    assert compare({"o": wanted}, {"o": outputs}).passed


@runs_here
def test_an_engine_that_computes_something_else_has_no_speed(copy):
    wrong = np.load(copy / "check" / "output_0.npy")
    wrong[3, 2] += 1
    np.save(copy / "check" / "output_0.npy", wrong)
    done = call(copy, "sparse/runner", "--check", "check/tensors.txt", "--rounds", "1")
    assert done.returncode == 1
    assert json.loads(done.stdout)["max_abs"] == pytest.approx(1, abs=1e-3)
    wrong[3, 2] = np.nan
    np.save(copy / "check" / "output_0.npy", wrong)
    done = call(copy, "sparse/runner", "--check", "check/tensors.txt", "--rounds", "1")
    assert (done.returncode, json.loads(done.stdout)["max_rel"]) == (1, None)
    bundle = json.loads((copy / "bundle.json").read_text())
    del bundle["files"]["check/output_0.npy"]
    (copy / "bundle.json").write_text(json.dumps(bundle))
    done = call(copy, sys.executable, "bench.py", "--rounds", "2")
    assert done.returncode == 1
    assert "its outputs are not the recorded ones: it has no speed" in done.stdout
    result = json.loads((copy / "results" / "result.json").read_text())
    assert result["candidates"][0]["samples_ns"] == []


@runs_here
def test_inputs_of_ones_own(copy, tmp_path):
    """As .npy, as raw bytes, by name, and one behind the other."""
    feeds = np.random.default_rng(3).standard_normal((6, 5, 9, 9)).astype(np.float32)
    np.save(tmp_path / "x.npy", feeds)
    feeds.tofile(tmp_path / "x.bin")
    found = []
    for given in ("x.npy", "x.bin"):
        option = f"input={tmp_path / given}" if given == "x.bin" else str(tmp_path / given)
        done = call(copy, "sparse/runner", "--input", option, "--output", ".", "--rounds", "1")
        assert done.returncode == 0, done.stderr
        assert "passed" not in json.loads(done.stdout)
        found.append(np.load(copy / "output_0.npy"))
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].shape == (6, 10)


@runs_here
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --check FILE or --input FILE"),
        (("--check",), "--check needs a value"),
        (("--input", "none.npy"), "cannot read none.npy: No such file"),
        (("--input", "check"), "it is not a file"),
        (("--input", "README.md"), "bytes for input, not a multiple of 3240"),
        (("--input", "double.npy"), "double.npy is not float32"),
        (("--input", "fortran.npy"), "fortran.npy is not in C order"),
        (("--input", "odd.npy"), "not a multiple of 3240"),
        (("--input", "cut.npy"), "cut.npy is damaged"),
        (("--check", "check/tensors.txt", "--batch", "3"), "not a multiple"),
        (("--check", "check/tensors.txt", "--rounds", "many"), "--rounds many: give a number"),
        (("--what", "1"), "no option --what"),
    ],
)
def test_mistakes_of_the_runner_are_one_line(near, tmp_path, arguments, message):
    random = np.zeros((2, 5, 9, 9), np.float32)
    np.save(tmp_path / "double.npy", random.astype(np.float64))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(random))
    np.save(tmp_path / "odd.npy", random[:1])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "odd.npy").read_bytes()[:20])
    (tmp_path / "README.md").write_text("x" * 3241)
    shutil.copytree(near.path / "check", tmp_path / "check")
    done = call(tmp_path, str(near.path / "sparse" / "runner"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# -- nobody takes it for an engine -----------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(near):
    path = near.path.with_name("net.bundle.tar.gz")
    archive.pack(near.path, path, "net.bundle")
    return path


@runs_here
@pytest.mark.parametrize("use", ["read", "open", "bench", "baseline", "run", "build over it"])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_it_is_no_engine(near, packed, model, tmp_path, use, form, capsys):
    path = near.path if form == "folder" else packed
    if use == "read":
        with pytest.raises(UserError, match="is a device bundle for x86-avx2, not an engine"):
            artifact.read_engine(path)
        return
    if use == "open":
        with pytest.raises(UserError, match="not an engine"), prunedeploy.open(path):
            pass
        return
    np.save(tmp_path / "x.npy", np.zeros((2, 5, 9, 9), np.float32))
    if use == "baseline":
        artifact.build(model, "host", "ort", tmp_path / "e")
    arguments = {
        "bench": ["bench", path],
        "baseline": ["bench", tmp_path / "e", "--baseline", path],
        "run": ["run", path, tmp_path / "x.npy", "-o", tmp_path / "y.npy"],
        "build over it": ["build", model, "--runtime", "ort", "-o", path],
    }[use]
    assert main([str(x) for x in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    wanted = "cannot write" if use == "build over it" else "not an engine: nothing in it was built"
    assert wanted in said


def test_other_archives_are_none(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a/b"))
    (tmp_path / "y.tar.gz").write_bytes(b"no archive")
    for name in ("x.tar.gz", "y.tar.gz"):
        with pytest.raises(UserError, match="is a file, not an engine's folder"):
            artifact.read_engine(tmp_path / name)
        with pytest.raises(UserError, match=r"has no readable bundle.json"):
            read(tmp_path / name)


# -- on the device, where things are missing -------------------------------------------------------


def pythons() -> list[str]:
    found = sorted(Path.home().glob(".pyenv/versions/3.6*/bin/python3.6"))
    return [str(x) for x in found[-1:]] or [shutil.which("python3.6") or sys.executable]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_python_3_6(name):
    text = (DEVICE / name).read_text()
    tree = ast.parse(text, feature_version=(3, 6))
    modules = {
        x.name for node in ast.walk(tree) if isinstance(node, ast.Import) for x in node.names
    }
    assert modules <= {*sys.stdlib_module_names, "state", "trt"}
    for newer in ("capture_output", "removeprefix", "text=True", ":="):
        assert newer not in text


@needs_zig
def test_where_tensorrt_is_missing(nano, tmp_path):
    """Up to there all is done, and it is said in a line."""
    if shutil.which("trtexec") or importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is here")
    (python,) = pythons()
    folder = shutil.copytree(nano.path, tmp_path / "nano")
    for script in (["sh", "build.sh"], [python, "bench.py", "--only", "tensorrt"]):
        done = call(folder, *script, PYTHON=python, PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 3, done.stdout + done.stderr
        assert "TensorRT is missing: there is no trtexec" in done.stdout
        assert "Traceback" not in done.stderr
    result = json.loads((folder / "results" / "result.json").read_text())
    assert result["complete"]
    assert result["candidates"] == []
    assert "TensorRT is missing" in result["missing"][0]


@needs_zig
def test_a_runner_for_another_machine_is_an_error_in_words(nano, tmp_path):
    if platform.machine() == "aarch64" or Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        pytest.skip("aarch64 programs run here")
    folder = shutil.copytree(nano.path, tmp_path / "nano")
    done = call(folder, sys.executable, "bench.py", "--only", "sparse")
    assert done.returncode == 1
    assert "sparse: the runner does not run here: Exec format error" in done.stdout
    assert "Traceback" not in done.stderr


TRTEXEC = '''\
#!{python}
"""Stands in for TensorRT's program, which cannot be had here: its files, not its numbers."""
import json, sys
given = dict(x.split("=", 1) for x in sys.argv[1:] if "=" in x)
print("&&&& RUNNING TensorRT.trtexec [TensorRT v8201] #", *sys.argv[1:])
if "--saveEngine" in given:
    assert open(given["--onnx"], "rb").read()
    open(given["--saveEngine"], "wb").write(b"plan")
    sys.exit(0)
if not open(given["--loadEngine"], "rb").read() == b"plan" or "float16" in given["--loadEngine"]:
    print("[E] Error[1]: engine of another version")
    sys.exit(1)
name, _, file = given["--loadInputs"].partition(":")
assert len(open(file, "rb").read()) == 5 * 9 * 9 * 4
values = {values}
output = [{{"name": "{name}", "dimensions": "1x10", "values": values}}]
json.dump(output, open(given["--exportOutput"], "w"))
json.dump([{{"latencyMs": 2.5, "computeMs": 2.0}}] * 7, open(given["--exportTimes"], "w"))
'''


@needs_zig
def test_the_calls_of_trtexec_and_its_files(nano, tmp_path):
    """Built beside and renamed, outputs compared, an error kept with its words."""
    folder = Path(shutil.copytree(nano.path, tmp_path / "nano"))
    values = np.load(folder / "check" / "output_0.npy")[0].tolist()
    program = tmp_path / "trtexec"
    program.write_text(
        TRTEXEC.format(python=sys.executable, values=values, name=nano.bundle.outputs[0].name)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (python,) = pythons()
    done = call(folder, "sh", "build.sh", "tensorrt", TRTEXEC=str(program), PYTHON=python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(x.name for x in (folder / "built").glob("*.plan*")) == [
        "model.float16.plan",
        "model.float32.plan",
    ]
    done = call(folder, python, "bench.py", "--only", "tensorrt", TRTEXEC=str(program))
    assert done.returncode == 1
    result = json.loads((folder / "results" / "result.json").read_text())
    full, half = result["candidates"]
    assert (full["passed"], full["version"], full["max_abs"]) == (True, "8.2.1", 0.0)
    assert full["samples_ns"] == [2_500_000] * 21
    (file,) = full["outputs"].values()
    stored = np.load(folder / "results" / file)
    np.testing.assert_array_equal(stored, np.float32([values]))
    assert "trtexec failed with status 1: [E] Error[1]: engine of another" in half["error"]
    assert half["samples_ns"] == []


@runs_here
def test_damage_is_seen(copy):
    with (copy / "check" / "input_0.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="is not what was written"):
        check(copy)
    done = call(copy, "sh", "build.sh")
    assert done.returncode == 1
    assert "build.sh: error: files of this bundle are damaged" in done.stderr
    done = call(copy, sys.executable, "bench.py")
    assert done.returncode == 1
    assert done.stderr == "bench.py: error: check/input_0.npy is damaged: copy the bundle again\n"
    (copy / "check" / "input_0.npy").unlink()
    with pytest.raises(UserError, match=r"is not complete: check/input_0.npy is missing"):
        check(copy)


# -- without a compiler ----------------------------------------------------------------------------


def without_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find(name)
    )


def test_without_ziglang_it_holds_c_sources(model, tmp_path, monkeypatch):
    if platform.machine() == "aarch64":
        pytest.skip("gcc compiles for this machine")
    without_compilers(monkeypatch)
    said: list[str] = []
    found = write_bundle(model, "jetson", tmp_path / "b", progress=said.append).bundle
    assert found.sparse is not None
    assert not found.sparse.compiled
    assert "not compiled: nothing compiles for jetson-nano here: install ziglang" in found.notes[0]
    assert any("goes as C sources" in line for line in said)
    assert {"sparse/runner.c", "sparse/Makefile", "sparse/model.c"} <= set(found.files)
    assert "as C sources, which `build.sh` compiles there" in (tmp_path / "b/README.md").read_text()


@runs_here
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_device_compiles_c_sources(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        without_compilers(patch)
        patch.setenv("PATH", "")
        place = write_bundle(model, "x86-avx2", tmp_path / "b").path
    assert not (place / "sparse" / "runner").exists()
    done = call(place, sys.executable, "bench.py")
    assert done.returncode == 3
    assert "the sparse engine is not compiled yet: run sh build.sh sparse" in done.stdout
    assert call(place, "sh", "build.sh", CC="no-such-compiler").returncode == 3
    done = call(place, "sh", "build.sh", CC="gcc")
    assert done.returncode == 0, done.stderr
    assert call(place, "sparse/runner", "--check", "check/tensors.txt").returncode == 0


# -- places and archives ---------------------------------------------------------------------------


@runs_here
def test_the_same_bytes_every_time_and_back(near, model, tmp_path):
    again = write_bundle(model, "x86-avx2", tmp_path / "net.tar.gz", batch=2)
    assert (again.bundle, again.sha256) == (near.bundle, near.sha256)
    archive.pack(near.path, tmp_path / "other.tar.gz", "net")
    assert (tmp_path / "other.tar.gz").read_bytes() == again.path.read_bytes()
    archive.unpack(again.path, tmp_path / "back")
    assert check(tmp_path / "back").sha256 == near.sha256
    assert os.access(tmp_path / "back" / "sparse" / "runner", os.X_OK)
    assert read(again.path).bundle == near.bundle


@pytest.mark.parametrize("name", ["a/../../evil", "/a/evil", "evil"])
def test_an_archive_stays_in_its_folder(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="which is no plain file"):
        archive.unpack(tmp_path / "x.tar.gz", tmp_path / "in")
    assert not list(tmp_path.rglob("evil"))


@runs_here
def test_only_a_bundle_is_replaced(copy, model, tmp_path, capsys):
    (copy / "results").mkdir()
    with pytest.raises(UserError, match="results in it is not the bundle's and would be lost"):
        write_bundle(model, "x86-avx2", copy)
    (copy / "results").rmdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="what is there is not a bundle"):
        write_bundle(model, "x86-avx2", tmp_path / "other")
    assert main(["build", str(model), "--archive"]) == 2
    assert "--archive and --input are for targets that are not at hand" in capsys.readouterr().err
    with pytest.raises(UserError, match="3 inputs are no multiple of the batch of 2"):
        write_bundle(
            *(model, "x86-avx2", tmp_path / "new"),
            batch=2,
            inputs={"input": np.zeros((3, 5, 9, 9), np.float32)},
        )
    assert not list(tmp_path.glob("*new*"))


@needs_zig
def test_the_command(model, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((1, 5, 9, 9), np.float32))
    place = tmp_path / "x.tar.gz"
    command = ["build", model, "--target", "raspberry-pi-5", "--input", tmp_path / "x.npy"]
    assert main([*map(str, command), "-o", str(place)]) == 0
    said = capsys.readouterr().out
    assert "device bundle for raspberry-pi-5, not an engine: nothing is measured" in said
    assert "sparse engine for aarch64 (neon), compiled with ziglang" in said
    assert read(place).bundle.runs == 1
