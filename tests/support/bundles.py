"""Device bundles in tests: which can be made and run here, and how their programs are called."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunedeploy import targets

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

SYSROOT = Path("/usr/aarch64-linux-gnu")  # of Debian's libc6-arm64-cross

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


def pythons() -> list[str]:
    found = sorted(Path.home().glob(".pyenv/versions/3.6*/bin/python3.6"))
    return [str(x) for x in found[-1:]] or [shutil.which("python3.6") or sys.executable]


def without_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEDEPLOY_CC", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find(name)
    )
