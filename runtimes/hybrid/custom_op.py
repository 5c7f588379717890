"""The custom op that runs sparse engines as nodes of ONNX Runtime: its library, compiled here.

The library is compiled at first use and kept in the user's cache: an engine then needs no second
library beside it, and one library serves all engines, whatever instructions they are built with.
It needs the C library alone; it finds ONNX Runtime through the pointers that it is given.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import warnings
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.files import atomic_path, cache_folder, sha256
from prunedeploy.runtimes.sparse.codegen.project import SOURCES as ENGINE_SOURCES
from prunedeploy.runtimes.sparse.codegen.project import c_file
from prunedeploy.runtimes.sparse.toolchain import compile as compiling

DOMAIN, OP = "prunedeploy", "SparseEngine"
THREADS_ENTRY = "prunedeploy.threads"  # of a session's configuration, read when it is registered
SOURCES = Path(__file__).parent / "c"
ENGINE_HEADER = "pd_engine.h"
FILES = ("engine_op.c", "engine_file.h", "onnxruntime_c_api.h")
FLAGS = (
    *("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-shared"),
    # stays loaded: sessions may outlive the options that registered it
    *("-Wl,-soname,prunedeploy_ort.so", "-Wl,-z,nodelete", "-Wl,--build-id=none", "-s"),
)
TIMEOUT = 300.0  # seconds
MAX_ENGINE_BYTES = 2_000_000_000  # of one protobuf's 2 GiB, with room for the rest


def onnxruntime_library(target: str = "host") -> Path:
    """The custom-op library for ONNX Runtime 1.17 or newer: register it with a session's options.

    ``options.register_custom_ops_library(str(path))`` in Python, RegisterCustomOpsLibrary in C. It
    is compiled at first use, by the compiler that builds sparse engines, and kept in
    ``$XDG_CACHE_HOME/prunedeploy`` (``~/.cache/prunedeploy``); copy it to wherever it is to run.

    Args:
        target: the machine it is for, a name of ``targets.TARGETS``.

    Returns:
        The library's file.

    Raises:
        UserError: no such target, no compiler for it, or the cache cannot be written.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.onnxruntime_library().suffix
        '.so'
    """
    machine = targets.by_name(target)
    tools = compiling.toolchain(machine)
    texts = {name: (SOURCES / name).read_text() for name in FILES}
    texts[ENGINE_HEADER] = c_file(ENGINE_HEADER)
    hashed = [*tools.command, tools.version, *FLAGS, *(x for item in texts.items() for x in item)]
    digest = hashlib.sha256("\0".join(hashed).encode()).hexdigest()[:16]
    path = cache_folder() / f"onnxruntime-{machine.arch}-{digest}.so"
    record = path.with_suffix(".sha256")
    if not _is_whole(path, record):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write {path.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder"
            ) from None
        with atomic_path(path) as file:
            _compile(tools, file)
            made = sha256(file)
        with atomic_path(record) as file:
            file.write_text(made)
    return path


def _is_whole(path: Path, record: Path) -> bool:
    """Whether the library in the cache is what was compiled: its hash is in a file beside it.

    Where it is another one, a warning says so.
    """
    try:
        if sha256(path) == record.read_text():
            return True
        warnings.warn(f"{path} is damaged: compiling it again", stacklevel=3)
    except (OSError, UnicodeDecodeError):
        pass  # none yet, or not completely written
    return False


def _compile(tools: compiling.Toolchain, output: Path) -> None:
    source, include = str(SOURCES / FILES[0]), f"-I{ENGINE_SOURCES}"
    command = [*tools.command, *FLAGS, include, source, "-o", str(output), "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{tools} took longer than {TIMEOUT:.0f} s: name another one") from None
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")
