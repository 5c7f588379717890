"""C projects to shared libraries: which compiler, with which flags, and its run.

The system's compiler is taken where the target is of this architecture; ziglang, a compiler that
comes as a Python package with the C libraries of all architectures, where there is none or where
the target is of another one.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import IO

from prunedeploy.core.errors import CompilerError, OutputError, UserError
from prunedeploy.runtimes.sparse.codegen.project import CODE, GENERAL, WEIGHTS, Project
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.payload import LIBRARY
from prunedeploy.targets import Target

JOBS = 2  # compilers at once
TIMEOUT = 900.0  # seconds for all of a project
ZIG = (sys.executable, "-P", "-m", "ziglang")  # -P: no ziglang.py of the current folder
GLIBC = "2.27"  # what ziglang links against where the target names none: Ubuntu 18.04's

# Not -ffast-math: NaN and infinity have to do what they do in ONNX Runtime.
OPTIMISE = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
COMMON = ("-std=gnu11", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffile-prefix-map=./=")
LINK = (
    *("-shared", "-pthread", "-Wl,-soname,model.so", "-Wl,--build-id=none"),
    *("-Wl,-z,noexecstack", "-s"),
)

NONE = (
    "no C compiler found: install gcc (apt install gcc) or ziglang "
    "(pip install 'prunedeploy[cross]'), or name one in PRUNEDEPLOY_CC"
)
NO_CROSS = (
    "nothing compiles for {target} here: install ziglang (pip install 'prunedeploy[cross]'), "
    "or name a cross compiler in PRUNEDEPLOY_CC"
)


@dataclass(frozen=True)
class Toolchain:
    """A compiler for one target: how it is called, and what it calls itself."""

    command: tuple[str, ...]
    name: str
    version: str
    isa: str
    flags: tuple[str, ...]  # of the files that may use the target's instructions

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def isa_of(target: Target) -> str:
    """The widest instruction set with kernels of its own that ``target`` has."""
    if target.arch in ("aarch64", "arm64"):
        return "neon"
    if target.arch not in ("x86_64", "AMD64"):
        return "generic"
    return next(isa.name for isa in ISAS.values() if isa.x86 and set(isa.needs) <= set(target.isa))


def toolchain(target: Target) -> Toolchain:
    """The compiler for ``target``.

    Raises:
        UserError: there is none, or the one that is named does not run.
    """
    command = _command(target)
    name, version = _identity(command)
    return Toolchain(command, name, version, isa_of(target), _flags(target, name))


def _command(target: Target) -> tuple[str, ...]:
    if chosen := os.environ.get("PRUNEDEPLOY_CC", "").strip():
        try:
            return tuple(shlex.split(chosen))
        except ValueError as error:
            raise UserError(
                f"PRUNEDEPLOY_CC is no command: {str(error).lower()} in {chosen}"
            ) from None
    native = target.arch == platform.machine()
    for name in ("gcc", "clang") if native else ():
        if path := shutil.which(name):
            return (path,)
    if importlib.util.find_spec("ziglang") is None:
        raise UserError(NONE if native else NO_CROSS.format(target=target.name))
    named = target.toolchain.glibc if target.toolchain is not None else ""
    musl = target.name == "host" and platform.libc_ver()[0] != "glibc"
    triple = f"{target.arch}-linux-{'musl' if musl else f'gnu.{named or GLIBC}'}"
    return (*ZIG, "cc", "-target", triple)


def _flags(target: Target, name: str) -> tuple[str, ...]:
    """The compiler's flags for the instruction set, and for the core where it is known."""
    isa = ISAS[isa_of(target)]
    if name != "ziglang":
        return (*isa.flags, *([f"-mcpu={target.cpu}"] if target.cpu else []))
    core = target.cpu.replace("-", "_") or isa.zig_core
    return (*isa.zig_flags, *([f"-mcpu={core}"] if core else []), "-fno-sanitize=undefined")


@lru_cache(maxsize=16)
def _identity(command: tuple[str, ...]) -> tuple[str, str]:
    """The compiler's name and version; asking for them also proves that it starts."""
    shown = shlex.join(command)
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"the C compiler {shown} does not run: {error}") from None
    first = (done.stdout.strip() or done.stderr.strip() or "it says nothing").splitlines()[0]
    if not done.stdout.strip():  # zig answers, and fails all the same
        raise CompilerError(f"the C compiler {shown} does not run: {first}")
    numbers: list[str] = re.findall(r"\d+\.\d+(?:\.\d+)?", first)
    if command[: len(ZIG)] == ZIG:
        return "ziglang", metadata.version("ziglang")
    # since 0.16 zig's compiler says that it is clang, which spells processors otherwise
    is_zig = "zig" in first or any("zig" in Path(word).name for word in command)
    name = "ziglang" if is_zig else "clang" if "clang" in first else "gcc"
    return name, numbers[-1] if numbers else first


# -- the run ---------------------------------------------------------------------------------------


def build_library(
    project: Project, library: Path, tools: Toolchain, extra: Sequence[str] = ()
) -> None:
    """Compile and link ``project`` to ``library``.

    Args:
        project: what ``emit_project`` made.
        library: the file to write.
        tools: the compiler.
        extra: flags for every call of it, behind the others: a sanitizer, another -O.

    Raises:
        UserError: the compiler lacks its headers, was killed, or takes for ever.
        RuntimeError: it refuses what we wrote, which is a bug of ours.
    """
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        try:
            write(project, Path(name))
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write to {name}: {reason}; set TMPDIR") from error
        _build(Path(name), tools, extra)
        shutil.copyfile(Path(name) / LIBRARY, library)


def _build(folder: Path, tools: Toolchain, extra: Sequence[str]) -> None:
    """All sources of ``folder`` to the library in it."""
    sources = sorted(path.name for path in folder.glob("*.c"))
    # the longest first, so that the last does not run alone for long
    ordered = sorted(sources, key=lambda source: -(folder / source).stat().st_size)
    _run([compile_command(tools, x, x in GENERAL, extra) for x in ordered], folder, tools)
    objects = [source.replace(".c", ".o") for source in sources]
    _run([[*tools.command, "-o", LIBRARY, *objects, *LINK, *extra, "-lm"]], folder, tools)
    if not (folder / LIBRARY).is_file():
        raise CompilerError(f"{tools} wrote nothing: name a C compiler in PRUNEDEPLOY_CC")


def compile_command(
    tools: Toolchain, source: str, general: bool, extra: Sequence[str] = ()
) -> list[str]:
    """The command that compiles one file, to be run in the project's folder."""
    isa = () if general else tools.flags
    target = source.replace(".c", ".o")
    return [*tools.command, *COMMON, *OPTIMISE, *isa, *extra, "-c", source, "-o", target]


def write(project: Project, folder: Path) -> None:
    """The project's files into ``folder``."""
    for name, text in project.files.items():
        (folder / name).write_text(text)
    (folder / WEIGHTS).write_bytes(project.weights)
    if project.code:
        (folder / CODE).write_bytes(project.code)


def _run(commands: Sequence[Sequence[str]], folder: Path, tools: Toolchain) -> None:
    """All of them, ``JOBS`` at once; none is left running, whatever happens."""
    waiting, running = list(commands), dict[subprocess.Popen[bytes], Sequence[str]]()
    end = time.monotonic() + TIMEOUT
    with tempfile.TemporaryFile() as output:
        try:
            while waiting or running:
                while waiting and len(running) < JOBS:
                    command = waiting.pop(0)
                    running[_start(command, folder, output)] = command
                for process in [one for one in running if one.poll() is not None]:
                    command = running.pop(process)
                    if process.returncode != 0:
                        output.seek(0)
                        errors = output.read().decode(errors="replace")
                        raise _failure(process.returncode, command, errors, tools)
                if time.monotonic() > end:
                    raise CompilerError(
                        f"{tools} took longer than {TIMEOUT:.0f} s: name another one"
                    )
                time.sleep(0.004)
        finally:
            for process in running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                process.wait()


def _start(command: Sequence[str], folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a group of its own, so that all of it can be ended; its files go with ``folder``."""
    return subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, "TMPDIR": str(folder)},
        process_group=0,
    )


def _failure(status: int, command: Sequence[str], errors: str, tools: Toolchain) -> Exception:
    """A bug of ours, unless the compiler cannot compile anything at all."""
    if status < 0 or "Killed" in errors:
        return CompilerError(f"{tools} was killed while it compiled: is there enough memory?")
    if "No space left on device" in errors:
        return UserError(f"no space left for the compiler in {tempfile.gettempdir()}: set TMPDIR")
    if problem := _problem(tools):
        return CompilerError(
            f"{tools} cannot compile a small C program: {problem}; install its C library "
            "(apt install libc6-dev), or ziglang (pip install 'prunedeploy[cross]')"
        )
    return RuntimeError(f"{shlex.join(command)} failed with status {status}:\n{errors}")


def _problem(tools: Toolchain) -> str:
    """The compiler's error on a correct program; empty where it compiles it."""
    text = "#include <math.h>\n#include <pthread.h>\ndouble f(double x) { return exp(x); }\n"
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        (Path(folder) / "small.c").write_text(text)
        command = [*tools.command, *COMMON, *tools.flags, *LINK, "small.c", "-o", "small.so", "-lm"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    if done.returncode == 0:
        return ""
    lines = done.stderr.splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0])
