"""The user's own targets: what a file may say, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.engines.self_check import self_check

CAMERA = """
[camera]
what = "the camera's board"
like = "jetson-orin"
aliases = ["cam"]
cores = 6
bytes-per-second = 68e9
peaks = { float32 = 1.3e12, float16 = 10e12 }
toolchain = { opset = 17, ir-version = 8 }
"""
PLAIN = """
[old-server]
arch = "x86_64"
isa = ["avx2", "fma"]
[old-server.toolchain]
name = "ONNX Runtime 1.10"
opset = 15
ir-version = 8
precisions = ["float32"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNEDEPLOY_TARGETS", raising=False)
    return tmp_path


def test_a_file_in_the_current_folder(folder: Path) -> None:
    assert len(targets.targets()) == len(targets.TARGETS)
    (folder / "prunedeploy.targets.toml").write_text(CAMERA + PLAIN)
    row = targets.by_name("cam")
    orin = targets.by_name("jetson-orin")
    assert (row.name, row.cores, row.bytes_per_second) == ("camera", 6, 68e9)
    assert (row.arch, row.compute_capability, row.runtimes) == ("aarch64", "8.7", orin.runtimes)
    assert row.peak("float16") == 10e12
    assert row.peak("int8") == 0  # its own peaks, not some of the other's
    assert row.toolchain is not None
    assert (row.toolchain.opset, row.toolchain.ir_version) == (17, 8)
    assert row.toolchain.precisions == (orin.toolchain.precisions if orin.toolchain else ())
    assert row.board == ""  # or it would have to be that very board
    assert targets.by_name("old-server").isa == ("avx2", "fma")
    with pytest.raises(UserError, match="did you mean camera"):
        targets.by_name("kamera")
    assert {"camera", "old-server"} <= {check.target for check in self_check()}


def test_the_variable_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "prunedeploy.targets.toml").write_text(CAMERA)
    (folder / "mine.toml").write_text(PLAIN)
    monkeypatch.setenv("PRUNEDEPLOY_TARGETS", "mine.toml")
    assert [row.name for row in targets.targets()[-1:]] == ["old-server"]
    monkeypatch.setenv("PRUNEDEPLOY_TARGETS", "none.toml")
    with pytest.raises(UserError, match=r"cannot read targets from none.toml: No such file"):
        targets.targets()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a", "cannot read targets"),
        ("a = " + "[" * 50_000, "cannot read targets"),
        ("a = " + "9" * 5_000, "cannot read targets"),
        ("a = 1", "a stands outside of a target"),
        ("['A b']\narch = 'x86_64'", "a name is of small letters"),
        ("[a]\nwhat = 'x'", "arch is missing"),
        ("[a]\narch = 'x86_64'\nmultipel = 4", "did you mean multiple"),
        ("[a]\narch = 'x86_64'\nmultiple = '4'", "multiple should be a whole number, found '4'"),
        ("[a]\narch = 'x86_64'\nmultiple = true", "multiple should be a whole number"),
        ("[a]\narch = 'x86_64'\nmultiple = 0", "multiple begins at 1"),
        ("[a]\narch = 'x86_64'\ncores = -2", "no other number is negative"),
        ("[a]\narch = 'x86_64'\nisa = 'avx2'", "isa should be a list of texts"),
        ("[a]\narch = 'x86_64'\nisa = ['sse']", "isa 'sse': choose from avx2"),
        ("[a]\narch = 'x86_64'\nruntimes = []", "runtimes is empty"),
        ("[a]\narch = 'x86_64'\ncompute-capability = 'sm_75'", 'write it as "8.7"'),
        ("[a]\narch = 'x86_64'\npeaks = { fp16 = 1 }", "no key 'fp16'"),
        ("[a]\narch = 'x86_64'\npeaks = { float16 = 0 }", "operations a second are positive"),
        ("[a]\narch = 'x86_64'\ntoolchain = { opset = 13 }", "toolchain: name is missing"),
        ("[a]\nlike = 'jetson-nano'\ncpu = 'x; touch y; true'", "would reach a compiler's command"),
        ("[a]\narch = '$(touch y)'", "would reach a compiler's command"),
        ("[a]\nlike = 'jetson-nano'\ntoolchain = { glibc = '2 $(y)' }", "a plain word"),
        ("[a]\nlike = 'jetson-orrin'", "like is 'jetson-orrin': choose from"),
        ("[a]\nlike = 'host'", "like is 'host'"),
        ("[t4]\narch = 'x86_64'", "there is a target t4 already"),
        ("[a]\narch = 'x86_64'\naliases = ['jetson']", "there is a target jetson already"),
    ],
)
def test_nonsense_in_one_line(folder: Path, text: str, reason: str) -> None:
    (folder / "prunedeploy.targets.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        targets.by_name("a")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "prunedeploy.targets.toml" in str(caught.value)


def test_a_file_that_begins_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "prunedeploy.targets.toml").write_bytes(b"\xef\xbb\xbf" + CAMERA.encode())
    assert targets.by_name("cam").name == "camera"
