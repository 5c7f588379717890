"""A device bundle where it runs: the runner, the scripts, and what is missing there."""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import call, emulated, needs_qemu, needs_zig, pythons, runs_here, without_compilers

import prunedeploy
from prunedeploy.bundle.sparse import DEVICE
from prunedeploy.bundle.write import write_bundle
from prunedeploy.engines import building, opening
from prunedeploy.reference.verify import compare

SCRIPTS = ("bench.py", "state.py", "trt.py")
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


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
def test_a_real_test_image_on_aarch64(real_data, tmp_path):
    """ResNet-20 as published, on images it was not trained on: the predictions of this machine."""
    done = prunedeploy.shrink(real_data / "resnet20-12fca82f.th", tmp_path / "r20.onnx")
    done.dense.unlink()  # it would only be measured beside it
    with np.load(real_data / "cifar10_test1k_lossless.npz") as data:
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
    engine = building.build(done.model, "host", "ort", tmp_path / "here")
    with opening.open(engine) as session:
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
