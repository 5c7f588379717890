"""What is in a device bundle, and that nobody takes it for an engine."""

from __future__ import annotations

import os
import platform
import re
import sys
import tarfile

import numpy as np
import onnx
import pytest
from bundles import call, needs_zig, runs_here, without_compilers

import prunedeploy
from prunedeploy.bundle import archive
from prunedeploy.bundle.write import write_bundle
from prunedeploy.cli import main
from prunedeploy.core import elf
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building, engine_folder
from prunedeploy.engines.bundle_record import check, read


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


@runs_here
@pytest.mark.parametrize("use", ["read", "open", "bench", "baseline", "run", "build over it"])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_it_is_no_engine(near, packed, model, tmp_path, use, form, capsys):
    path = near.path if form == "folder" else packed
    if use == "read":
        with pytest.raises(UserError, match="is a device bundle for x86-avx2, not an engine"):
            engine_folder.read_engine(path)
        return
    if use == "open":
        with pytest.raises(UserError, match="not an engine"), prunedeploy.open(path):
            pass
        return
    np.save(tmp_path / "x.npy", np.zeros((2, 5, 9, 9), np.float32))
    if use == "baseline":
        building.build(model, "host", "ort", tmp_path / "e")
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
            engine_folder.read_engine(tmp_path / name)
        with pytest.raises(UserError, match=r"has no readable bundle.json"):
            read(tmp_path / name)


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
