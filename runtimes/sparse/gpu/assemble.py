"""Assembles PTX with ptxas where one is at hand: the entries in parts, several at once.

Cubins are for one compute capability, and spare the driver the time to compile. Engines have the
PTX as well, which is what runs where the cubins cannot be loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prunedeploy.core.errors import CompilerError
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER

NAMED = "PRUNEDEPLOY_PTXAS"  # a path; "none" for engines of PTX alone
PACKAGE = "nvidia.cuda_nvcc"  # of the extra ``cuda``
PART = 1_000_000  # bytes of PTX in a part that has several entries
TIMEOUT = 1800.0  # seconds of a part


@dataclass(frozen=True)
class Assembler:
    """A ptxas: where it is, and its version."""

    path: str
    version: str


@dataclass(frozen=True)
class Cubins:
    """An assembled module: its parts, and for each entry the part that it is in."""

    parts: tuple[bytes, ...]
    part_of: dict[str, int]
    version: str


def assembler() -> Assembler | None:
    """The ptxas that is named, or of the extra ``cuda``, or on the path.

    Raises:
        CompilerError: the one that is named does not run.
    """
    named = os.environ.get(NAMED, "").strip()
    if named == "none":
        return None
    path = named or _of_package() or shutil.which("ptxas")
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if named:
            raise CompilerError(f"{NAMED} names {named}, which does not run: {error}") from None
        return None
    version = re.search(r"V([\d.]+)", done.stdout)
    return Assembler(path, version.group(1) if version else "unknown")


def _of_package() -> str | None:
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        return None
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "bin" / "ptxas"
        if path.is_file():
            return str(path)
    return None


def assemble(kernels: Sequence[Kernel], capability: int, tool: Assembler) -> Cubins | None:
    """The cubins of ``kernels``; None where ``tool`` does not know the compute capability.

    Raises:
        CompilerError: ptxas refuses the code, or takes too long.
    """
    groups = parts_of(kernels)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # the longest first, so that none is left to the end
        order = sorted(range(len(groups)), key=lambda i: -sum(len(k.text) for k in groups[i]))
        running = {i: pool.submit(_part, groups[i], capability, tool) for i in order}
        parts = [running[i].result() for i in range(len(groups))]
    if any(part is None for part in parts):
        return None
    part_of = {kernel.name: i for i, group in enumerate(groups) for kernel in group}
    return Cubins(tuple(part for part in parts if part is not None), part_of, tool.version)


def parts_of(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels in order, in groups of at most ``PART`` bytes; a larger one is alone."""
    groups: list[list[Kernel]] = []
    size = PART
    for kernel in kernels:
        size += len(kernel.text)
        if size > PART:
            groups.append([])
            size = len(kernel.text)
        groups[-1].append(kernel)
    return groups


def _part(kernels: Sequence[Kernel], capability: int, tool: Assembler) -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "part.ptx", Path(folder) / "part.cubin"
        source.write_text(HEADER + "".join(kernel.text for kernel in kernels))
        command = [tool.path, f"-arch=sm_{capability}", source.name, "-o", cubin.name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise CompilerError(f"ptxas took more than {TIMEOUT:.0f} s for a kernel") from None
        if done.returncode == 0:
            return cubin.read_bytes()
        if "gpu-name" in done.stderr:
            return None
        first = done.stderr.strip().splitlines()[:1]
        raise CompilerError(f"ptxas {tool.version} refuses a kernel: {' '.join(first)}")
