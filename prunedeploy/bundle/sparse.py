"""The sparse engine's part of a bundle: the library and its runner, or their C sources."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from prunedeploy.core import elf
from prunedeploy.core.errors import CompilerError, UserError
from prunedeploy.core.progress import Notice
from prunedeploy.engines.bundle_record import SparsePart
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.sparse.build import layers_json, project_of
from prunedeploy.runtimes.sparse.codegen.project import c_file
from prunedeploy.runtimes.sparse.engine import Sparse
from prunedeploy.runtimes.sparse.payload import HEADER, LAYERS, LIBRARY
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import Target

DEVICE = Path(__file__).parent / "device"
RUNNER, RUNNER_SOURCE = "runner", "runner.c"
TIMEOUT = 300.0


def write(model: Path, target: Target, folder: Path, options: BuildOptions) -> SparsePart:
    """Put the engine for ``target`` into ``folder``, compiled where that can be done here.

    Raises:
        UserError: the sparse runtime cannot compute the model; of these a CompilerError: the
            compiler that is here for ``target`` does not work.
    """
    folder.mkdir()
    try:
        tools = compiling.toolchain(target)
        options.progress(f"compiling the sparse engine with {tools}")
        return _compiled(model, target, folder, options, tools)
    except _NotCompiledError as error:
        why = str(error)
        shutil.rmtree(folder)
        folder.mkdir()
    except CompilerError:
        raise
    except UserError as error:
        if Sparse().refuse(target) is None:  # there is a compiler: it is the model
            raise
        why = str(error)
    options.progress(Notice(f"the sparse engine goes as C sources: {why}"))
    Sparse().emit(model, target, folder, options)
    shutil.copyfile(DEVICE / RUNNER_SOURCE, folder / RUNNER_SOURCE)
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text + "\n`build.sh` in the folder above compiles all.\n")
    isa, batches = _layers(folder)
    threads = options.threads or target.cores
    return SparsePart(isa, batches, threads, False, "", "", f"not compiled: {why}")


class _NotCompiledError(Exception):
    """The compiled program cannot run on the target."""


def _compiled(
    model: Path, target: Target, folder: Path, options: BuildOptions, tools: compiling.Toolchain
) -> SparsePart:
    project, threads = project_of(model, target, tools, options)
    compiling.build_library(project, folder / LIBRARY, tools)
    (folder / HEADER).write_text(c_file(HEADER))
    (folder / LAYERS).write_text(layers_json(project))
    shutil.copyfile(DEVICE / RUNNER_SOURCE, folder / RUNNER_SOURCE)
    _compile_runner(folder, tools)
    programs = (folder / LIBRARY, folder / RUNNER)
    needed = elf.glibc(*programs)
    _check(programs, needed, target, tools)
    glibc = ".".join(map(str, needed))
    return SparsePart(project.isa, project.batches, threads, True, str(tools), glibc, "")


def _compile_runner(folder: Path, tools: compiling.Toolchain) -> None:
    """``runner``, which finds the library beside itself."""
    command = [*tools.command, "-std=gnu11", "-O2", "-pthread", "-s", RUNNER_SOURCE]
    command += [LIBRARY, "-o", RUNNER, "-Wl,-rpath,$ORIGIN", "-Wl,--build-id=none", "-lm"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{RUNNER_SOURCE} does not compile:\n{done.stderr}")
    (folder / RUNNER).chmod(0o755)


def _check(
    programs: tuple[Path, ...], needed: tuple[int, ...], target: Target, tools: compiling.Toolchain
) -> None:
    """They are for the target's processor and need no newer C library than it has."""
    for path in programs:
        if (arch := elf.machine(path)) != target.arch:
            raise UserError(
                f"{tools} compiles for {arch}, {target.name} is {target.arch}: "
                "name another one in PRUNEDEPLOY_CC"
            )
    limit = target.toolchain.glibc if target.toolchain is not None else ""
    if limit and needed > elf.version(limit):
        have = ".".join(map(str, needed))
        raise _NotCompiledError(
            f"{tools} links against glibc {have}, {target.name} has {limit}: install ziglang "
            "(pip install 'prunedeploy[cross]')"
        )


def _layers(folder: Path) -> tuple[str, tuple[int, ...]]:
    """The instruction set and the batch sizes of a C project."""
    layers = json.loads((folder / LAYERS).read_text())
    return layers["isa"], tuple(map(int, layers["layers"]))
