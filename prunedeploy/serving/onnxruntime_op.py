"""Sparse engines inside ONNX Runtime: a custom-op library, and models of one node.

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
from typing import TYPE_CHECKING, Any

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, cache_folder, sha256
from prunedeploy.core.records import Engine, TensorSpec
from prunedeploy.engines import engine_folder
from prunedeploy.engines.request import check_threads
from prunedeploy.runtimes.api import listed_bytes
from prunedeploy.runtimes.sparse.codegen.project import SOURCES as ENGINE_SOURCES
from prunedeploy.runtimes.sparse.codegen.project import c_file
from prunedeploy.runtimes.sparse.payload import LIBRARY
from prunedeploy.runtimes.sparse.toolchain import compile as compiling

if TYPE_CHECKING:
    import onnx

DOMAIN, OP = "prunedeploy", "SparseEngine"
SOURCES = Path(__file__).parent / "ort"
ENGINE_HEADER = "pd_engine.h"
FILES = ("engine_op.c", "engine_file.h", "onnxruntime_c_api.h")
FLAGS = (
    *("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-shared"),
    # stays loaded: sessions may outlive the options that registered it
    *("-Wl,-soname,prunedeploy_ort.so", "-Wl,-z,nodelete", "-Wl,--build-id=none", "-s"),
)
TIMEOUT = 300.0  # seconds
MAX_SESSIONS = 4096  # of engine_op.c
MAX_ENGINE_BYTES = 2_000_000_000  # of one protobuf's 2 GiB, with room for the rest
IR_VERSION, OPSET = 8, 17  # what every ONNX Runtime that the library takes reads


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
            raise UserError(
                f"cannot write {path.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder"
            ) from None
        with atomic_path(path) as file:
            _compile(tools, file)
            made = sha256(file)
        with atomic_path(record) as file:
            file.write_text(made)
    return path


def onnxruntime_model(
    engine: str | Path | Engine,
    output: str | Path,
    *,
    embed: bool = True,
    threads: int = 0,
    sessions: int = 0,
) -> Path:
    """Write an ONNX model whose only node is a sparse engine.

    Its inputs and outputs are the engine's. ONNX Runtime runs it once ``onnxruntime_library`` is
    registered; what is in it is a program, to be trusted like one.

    Args:
        engine: an engine's folder, or one that was read.
        output: the file to write.
        embed: hold the engine's bytes; else its path, which has to stay valid where the model runs.
        threads: how many a run computes with; 0: what the engine was cut for.
        sessions: runs that may go on at once, others wait; 0: what keeps the processors busy.

    Returns:
        ``output``.

    Raises:
        UserError: not a sparse engine, too large to embed, numbers that cannot be, or ``output``
            cannot be written.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.onnxruntime_model("net.engine", "node.onnx").name
        'node.onnx'
    """
    import onnx

    check_threads(threads)
    if not 0 <= sessions < MAX_SESSIONS:
        raise UserError(f"cannot have {sessions} sessions: give 1 to {MAX_SESSIONS - 1}, or 0")
    known = engine if isinstance(engine, Engine) else engine_folder.read_engine(engine)
    if known.manifest.runtime != "sparse":
        raise UserError(
            f"{known.path} is an engine of {known.manifest.runtime}: the custom op is for sparse "
            "engines, build one with --runtime sparse"
        )
    library = known.path / LIBRARY
    if embed and library.stat().st_size > MAX_ENGINE_BYTES:
        raise UserError(f"{library} is too large for one ONNX file: take embed=False")
    path = Path(output)
    where: dict[str, Any] = {"path": str(known.path.resolve())}
    if embed:
        where = {"engine": listed_bytes(known, LIBRARY)}
    inputs = [_value(spec) for spec in known.manifest.inputs]
    outputs = [_value(spec) for spec in known.manifest.outputs]
    names = [[value.name for value in values] for values in (inputs, outputs)]
    settings: dict[str, Any] = {**where, "threads": threads, "sessions": sessions}
    node = onnx.helper.make_node(OP, names[0], names[1], name="engine", domain=DOMAIN, **settings)
    graph = onnx.helper.make_graph([node], "engine", inputs, outputs)
    opsets = [onnx.helper.make_opsetid(*each) for each in (("", OPSET), (DOMAIN, 1))]
    model = onnx.helper.make_model(
        graph, producer_name="prunedeploy", ir_version=IR_VERSION, opset_imports=opsets
    )
    onnx.helper.set_model_props(model, {"prunedeploy.engine": known.sha256})
    with atomic_path(path) as file:
        file.write_bytes(model.SerializeToString())
    return path


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    import numpy as np
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(spec.name, kind, list(spec.shape))


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
