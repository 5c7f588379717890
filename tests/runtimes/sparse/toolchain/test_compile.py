"""Which compiler is taken, with which flags, and what becomes of its failures."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from engines import build, feed, network, output

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building, c_project, opening
from prunedeploy.measure.bench import bench
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.sparse.codegen.project import CODE, Project
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.runtimes.sparse.toolchain.compile import build_library, toolchain
from prunedeploy.targets import by_name

HOST = by_name("host")
NANO = by_name("jetson-nano")
needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)


@pytest.fixture
def no_compilers(monkeypatch):
    """Neither on the path nor as a package."""
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    monkeypatch.setenv("PATH", "")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find(name)
    )


def fake(folder: Path, script: str, name: str = "gcc") -> Path:
    """A compiler that is a shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


ANSWERS = 'case "$*" in *--version*) echo "gcc (Fake 9.8.7-6) 9.8.7"; exit;; esac\n'


def small(text: str = "int pd_one(void) { return 1; }\n") -> Project:
    return Project({"steps_0.c": text}, b"", "generic", (1,), {})


# -- which -----------------------------------------------------------------------------------------


def test_none_at_all(no_compilers, tmp_path):
    with pytest.raises(UserError) as caught:
        toolchain(HOST)
    assert "apt install gcc" in str(caught.value)
    assert "pip install 'prunedeploy[cross]'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == registry.refuse(HOST, "sparse")
    with pytest.raises(UserError, match="no C compiler found"):
        build(network(tmp_path / "m.onnx"), tmp_path / "e")
    with pytest.raises(UserError, match=r"nothing compiles for .*: install ziglang"):
        toolchain(_foreign())


def _foreign() -> targets.Target:
    return NANO if platform.machine() != "aarch64" else by_name("x86-avx2")


def test_an_engine_opens_without_a_compiler(request, tmp_path):
    engine = build(network(tmp_path / "m.onnx"), tmp_path / "e")
    wanted = None
    with opening.open(engine.path) as session:
        wanted = output(session, feed(engine, 1))
    request.getfixturevalue("no_compilers")
    with opening.open(engine.path) as session:
        np.testing.assert_array_equal(output(session, feed(engine, 1)), wanted)


def test_the_first_that_is_there(no_compilers, monkeypatch, tmp_path):
    clang = fake(tmp_path, 'echo "Debian clang version 14.0.6"', "clang")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = toolchain(HOST)
    assert (found.command, str(found)) == ((str(clang),), "clang 14.0.6")
    gcc = fake(tmp_path, ANSWERS)
    assert toolchain(HOST).command == (str(gcc),)
    assert str(toolchain(HOST)) == "gcc 9.8.7"
    named = fake(tmp_path, ANSWERS, "mine")
    monkeypatch.setenv("PRUNEDEPLOY_CC", f"'{named}' -pipe")
    assert toolchain(HOST).command == (str(named), "-pipe")
    assert toolchain(_foreign()).command == (str(named), "-pipe")


def test_one_that_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEDEPLOY_CC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"none does not run: .*No such file"):
        toolchain(HOST)
    monkeypatch.setenv("PRUNEDEPLOY_CC", str(fake(tmp_path, "echo licence expired >&2; exit 3")))
    with pytest.raises(UserError, match="does not run: licence expired"):
        toolchain(HOST)


@pytest.mark.parametrize(
    ("arch", "isa", "wanted"),
    [
        ("x86_64", ("avx2", "fma", "avx512"), "avx512"),
        ("x86_64", ("avx2", "fma"), "avx2"),
        ("x86_64", ("avx2",), "generic"),
        ("x86_64", (), "generic"),
        ("aarch64", ("neon",), "neon"),
        ("riscv64", (), "generic"),
    ],
)
def test_instruction_sets(arch, isa, wanted):
    assert compiling.isa_of(dataclasses.replace(HOST, arch=arch, isa=isa)) == wanted


@needs_zig
def test_ziglang_for_another_architecture(monkeypatch):
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    found = toolchain(NANO)
    assert found.name == "ziglang"
    assert found.command[-2:] == ("-target", "aarch64-linux-gnu.2.27")
    assert "-mcpu=cortex_a57" in found.flags
    assert found.isa == "neon"
    assert "aarch64-linux-gnu.2.35" in toolchain(by_name("jetson-orin")).command


@pytest.mark.parametrize(
    ("name", "says", "known_as", "cpu"),
    [
        ("zig", "clang version 22.1.8", "ziglang", "cortex_a57"),  # zig 0.16 and newer
        ("zig-0.15", "zig 0.15.2 (clang 20.1.2)", "ziglang", "cortex_a57"),
        ("clang-19", "Debian clang version 19.1.0", "clang", "cortex-a57"),
        ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-gcc 12.2.0", "gcc", "cortex-a57"),
    ],
)
def test_how_compilers_spell_processors(monkeypatch, tmp_path, name, says, known_as, cpu):
    named = fake(tmp_path, f'echo "{says}"', name)
    monkeypatch.setenv("PRUNEDEPLOY_CC", str(named))
    found = toolchain(NANO)
    assert found.name == known_as
    assert f"-mcpu={cpu}" in found.flags


# -- its failures ----------------------------------------------------------------------------------


def test_c_that_does_not_compile_is_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)-c steps_0.c.*error") as caught:
        build_library(small("int one(void) { return }\n"), tmp_path / "x.so", toolchain(HOST))
    assert "steps_0.c:1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _tools(tmp_path: Path, script: str) -> compiling.Toolchain:
    return compiling.Toolchain((str(fake(tmp_path, ANSWERS + script)),), "gcc", "9.8.7", "x", ())


def test_a_compiler_without_its_headers(tmp_path):
    script = 'echo "small.c:1:10: fatal error: math.h: No such file or directory" >&2; exit 1'
    with pytest.raises(UserError, match=r"gcc 9.8.7 cannot compile a small C program: .*math\.h.*"):
        build_library(small(), tmp_path / "x.so", _tools(tmp_path, script))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -9 $$", "was killed while it compiled"),
        ('echo "gcc: fatal error: Killed signal terminated program cc1" >&2; exit 1', "killed"),
        ('echo "x.s: No space left on device" >&2; exit 1', "set TMPDIR"),
    ],
)
def test_a_machine_that_is_full(tmp_path, script, message):
    with pytest.raises(UserError, match=message):
        build_library(small(), tmp_path / "x.so", _tools(tmp_path, script))


def test_a_compiler_that_never_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "TIMEOUT", 0.3)
    tools = _tools(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    start = time.monotonic()
    with pytest.raises(UserError, match="took longer than 0 s"):
        build_library(small(), tmp_path / "x.so", tools)
    assert time.monotonic() - start < 10
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path("/proc", pid).exists()


def test_jobs_run_side_by_side_and_no_more(tmp_path):
    """Three files, two at a time."""
    script = (
        f'test -n "$(echo "$*" | grep -e -shared)" && {{ : > model.so; exit; }}\n'
        f"date +%s.%N >> {tmp_path}/begin; sleep 0.2; date +%s.%N >> {tmp_path}/end"
    )
    files = {f"steps_{n}.c": "" for n in range(3)}
    project = Project(files, b"", "generic", (1,), {})
    build_library(project, tmp_path / "x.so", _tools(tmp_path, script))
    begins, ends = (
        sorted(map(float, (tmp_path / x).read_text().split())) for x in ("begin", "end")
    )
    assert len(begins) == len(ends) == 3
    assert begins[1] < ends[0] < begins[2]


# -- ziglang, for real -----------------------------------------------------------------------------


def _machine(library: Path) -> int:
    return int(struct.unpack_from("<H", library.read_bytes(), 18)[0])


@needs_zig
@pytest.mark.slow
def test_an_engine_for_another_machine(tmp_path, monkeypatch):
    """It is built, is for that machine and its C library, and is refused here."""
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    if platform.machine() == "aarch64":
        pytest.skip("this is such a machine")
    model = network(tmp_path / "m.onnx")
    said: list[str] = []
    engine = building.build(
        model, "jetson-nano", "sparse", tmp_path / "e", progress=said.append, batch=2
    )
    manifest = engine.manifest
    assert (manifest.arch, manifest.isa, manifest.threads) == ("aarch64", "neon", 4)
    assert manifest.difference is None
    assert any("never compared" in line for line in said)
    library = engine.path / "model.so"
    assert _machine(library) == 183  # EM_AARCH64
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    assert max((int(a), int(b)) for a, b in versions) <= (2, 27)
    with pytest.raises(UserError, match=r"is for aarch64, this machine is"), opening.open(engine):
        pass
    with pytest.raises(UserError, match="it has no speed"):
        bench(engine.path, model, batch=2)


@needs_zig
@pytest.mark.slow
def test_ziglang_where_there_is_no_system_compiler(tmp_path, monkeypatch):
    """The same numbers as the system's compiler, to rounding, and twice the same bytes."""
    model = network(tmp_path / "m.onnx")
    engine = build(model, tmp_path / "e")
    with opening.open(engine) as session:
        wanted = output(session, feed(engine, 3))
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    places = [build(model, tmp_path / name) for name in ("z", "y")]
    assert places[0].manifest.versions["ziglang"]
    assert places[0].manifest.files == places[1].manifest.files
    with opening.open(places[0]) as session:
        np.testing.assert_allclose(output(session, feed(engine, 3)), wanted, rtol=1e-4, atol=1e-5)


# -- the C project ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emitted")
    model = network(folder / "net.onnx")
    place = c_project.emit_c(model, output=folder / "src", batch=(1, 4), threads=2, tune="none")
    return model, place


def _make(folder: Path, *more: str) -> None:
    command = ["make", "-s", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@needs_make
def test_make_builds_what_build_builds(emitted, tmp_path, monkeypatch):
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    model, place = emitted
    engine = build(model, tmp_path / "e", batch=(1, 4), threads=2)
    copy = shutil.copytree(place, tmp_path / "src")
    _make(copy, f"CC={toolchain(HOST).command[0]}")
    assert (copy / "model.so").read_bytes() == (engine.path / "model.so").read_bytes()


def test_programs_are_part_of_the_project(emitted):
    """Where the processor has their instructions; make then knows that they belong to it."""
    _, place = emitted
    if toolchain(HOST).isa != "avx512":
        pytest.skip("no AVX-512 here: layers have no programs")
    assert (place / CODE).stat().st_size > 1000
    assert f"code.o: {CODE}\n" in (place / "Makefile").read_text()
    assert f"`{CODE}`" in (place / "README.md").read_text()
    assert "jit" in (place / "layers.json").read_text()


def test_without_programs_nothing_is_said_of_them(emitted, tmp_path):
    model, _ = emitted
    place = c_project.emit_c(model, "jetson-nano", tmp_path / "src", batch=1)
    assert not (place / CODE).exists()
    assert "code.o" not in (place / "Makefile").read_text()
    assert "code.c" not in (place / "README.md").read_text() + (place / "Makefile").read_text()


def test_nothing_is_overwritten(emitted):
    model, place = emitted
    with pytest.raises(UserError, match="is there already"):
        c_project.emit_c(model, output=place)
    with pytest.raises(UserError, match="the engine for rtx2080ti is PTX: use prunedeploy build"):
        c_project.emit_c(model, "rtx2080ti", place.with_name("other"))


def test_no_compiler_is_needed_to_emit(emitted, no_compilers, tmp_path):
    model, place = emitted
    again = c_project.emit_c(model, output=tmp_path / "src", batch=(1, 4), threads=2)
    for file in place.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@needs_make
def test_the_example_in_c(emitted, tmp_path):
    """It links an engine, and computes what Python does."""
    model, _ = emitted
    engine = build(model, tmp_path / "e", batch=(1, 4), threads=2)
    feeds = feed(engine, 4)
    example = shutil.copytree(Path(__file__).parents[4] / "examples" / "c", tmp_path / "c")
    _make(example, f"ENGINE={engine.path}", "CFLAGS=-Wall -Wextra -Werror")
    (tmp_path / "in.bin").write_bytes(feeds["input"].tobytes())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(example / "run"), "in.bin", "out.bin", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("4", "3")
    assert done.returncode == 0, done.stderr
    assert f"{engine.manifest.isa}, batch 4, 3 threads:" in done.stdout
    found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(4, 10)
    with opening.open(engine) as session:
        np.testing.assert_array_equal(found, output(session, feeds))
    assert "pd_run: the engine was not built for this batch size" in run("2").stderr
    assert "is too short" in run("5").stderr


@needs_zig
@pytest.mark.slow
def test_aarch64_under_qemu(emitted, tmp_path):
    """The NEON kernels, in a program of their own, give the numbers of this machine's."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("no qemu-aarch64 here: apt install qemu-user-static")
    model, _ = emitted
    place = c_project.emit_c(model, "raspberry-pi-5", tmp_path / "src", batch=4)
    shutil.copyfile(place / "pd_engine.h", place / "model.h")
    shutil.copyfile(Path(__file__).parents[4] / "examples" / "c" / "run.c", place / "run.c")
    sources = sorted(x.name for x in place.glob("*.c"))
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    flags = [*compiling.OPTIMISE, "-std=gnu11", "-fno-sanitize=undefined", "-pthread"]
    built = subprocess.run(
        [*zig, *flags, *sources, "-lm", "-o", "run"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    engine = build(model, tmp_path / "e", batch=4)
    feeds = feed(engine, 4)
    (place / "in.bin").write_bytes(feeds["input"].tobytes())
    command = [qemu, "./run", "in.bin", "out.bin", "4", "2"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("neon, batch 4")
    found = np.fromfile(place / "out.bin", np.float32).reshape(4, 10)
    with opening.open(engine) as session:
        wanted = output(session, feeds)
    assert np.abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)


def test_sources_for_inputs_too_large_to_draw(tmp_path: Path) -> None:
    """Schedules would be measured on such inputs, and a user's program would have to hold them."""
    graph = onnx.parser.parse_graph(
        "g (float[67108864, 16] x) => (float[67108864, 2] y) { y = MatMul(x, w) }"
    )
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 2), np.float32), "w"))
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx"
    )
    with pytest.raises(UserError, match="the inputs have 1,073,741,824 elements"):
        c_project.emit_c(tmp_path / "m.onnx", output=tmp_path / "src")
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]
