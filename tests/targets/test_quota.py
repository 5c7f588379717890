"""CPU limits of control groups, as Python and as the C code of engines read them."""

from __future__ import annotations

import ctypes
import math
import subprocess
from pathlib import Path

import pytest

from prunedeploy import targets
from prunedeploy.runtimes.sparse.codegen.project import SOURCES
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets.quota import cpu_quota

MOST = 64.0

# name: files below the root, the process's own groups, the limit
TREES: dict[str, tuple[dict[str, str], str, float]] = {
    "no groups": ({}, "", MOST),
    "no limit": ({"cpu.max": "max 100000\n"}, "0::/\n", MOST),
    "a container's root": ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
    "outside of what it sees": ({"cpu.max": "200000 100000\n"}, "0::/docker/0123\n", 2.0),
    "own group": ({"a/b/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5),
    "a group around": (
        {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"},
        "0::/a/b\n",
        3.0,
    ),
    "the least": ({"a/cpu.max": "300000 100000", "cpu.max": "100000 100000"}, "0::/a\n", 1.0),
    "version 1": (
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        },
        "3:cpuset:/x\n2:cpu,cpuacct:/x\n1:name=systemd:/x\n",
        2.5,
    ),
    "version 1 without a limit": (
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        "2:cpu:/\n",
        MOST,
    ),
    "another controller": (
        {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"},
        "3:cpuset:/\n",
        MOST,
    ),
    "nonsense": ({"cpu.max": "a lot"}, "x\n0:/\n\n", MOST),
    "a period of zero": ({"cpu.max": "100000 0"}, "0::/\n", MOST),
    "an empty file": ({"cpu.max": ""}, "0::/\n", MOST),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("quota")
    (folder / "quota.c").write_text(
        '#define _GNU_SOURCE\n#include "processors.h"\n'
        "double quota(const char *root, const char *own, double most) "
        "{ return pd_quota(root, own, most); }\n"
        "int processors(void) { return pd_processors(); }\n"
    )
    cc = compiling.toolchain(targets.by_name("host")).command
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{SOURCES}"]
    command = [*cc, *flags, "quota.c", "-o", "quota.so"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    found = ctypes.CDLL(str(folder / "quota.so"))
    found.quota.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_double]
    found.quota.restype = ctypes.c_double
    return found


def _tree(folder: Path, name: str) -> tuple[Path, Path]:
    files, own, _ = TREES[name]
    root = folder / "cgroup"
    root.mkdir()
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (folder / "own").write_text(own)
    return root, folder / "own"


@pytest.mark.parametrize("name", TREES)
def test_the_limit(tmp_path, library, name):
    root, own = _tree(tmp_path, name)
    assert min(cpu_quota(root, own), MOST) == TREES[name][2]
    assert library.quota(str(root).encode(), str(own).encode(), MOST) == TREES[name][2]


def test_nothing_is_mounted(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path / "nothing") == math.inf


def test_cores_are_whole(monkeypatch, library):
    count = targets.cores()
    assert library.processors() == count >= 1
    for quota, cores in ((0.5, 1), (1.9, 1), (math.inf, count)):
        monkeypatch.setattr("prunedeploy.targets.machine.cpu_quota", lambda q=quota: q)
        assert targets.cores() == min(cores, count)
