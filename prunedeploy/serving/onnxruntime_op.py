"""Sparse engines inside ONNX Runtime: the custom-op library, and models of one node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path
from prunedeploy.core.records import Engine, TensorSpec
from prunedeploy.engines import engine_folder
from prunedeploy.engines.request import check_threads
from prunedeploy.engines.sizes import refuse_several
from prunedeploy.runtimes.api import listed_bytes
from prunedeploy.runtimes.hybrid.custom_op import (
    DOMAIN,
    MAX_ENGINE_BYTES,
    OP,
    onnxruntime_library,
)
from prunedeploy.runtimes.sparse.payload import LIBRARY

if TYPE_CHECKING:
    import onnx

__all__ = ["onnxruntime_library", "onnxruntime_model"]

MAX_SESSIONS = 4096  # of engine_op.c
IR_VERSION, OPSET = 8, 17  # what every ONNX Runtime that the library takes reads


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
    refuse_several(known, "the custom op")
    if known.manifest.runtime != "sparse":
        raise UserError(
            f"{known.path} is an engine of {known.manifest.runtime}: the custom op is for sparse "
            "engines, build one with --runtime sparse"
        )
    library = known.path / LIBRARY
    if embed and library.stat().st_size > MAX_ENGINE_BYTES:
        raise UserError(f"{library} is too large for one ONNX file: take embed=False")
    path = Path(output)
    where: dict[str, Any] = {"path": os.path.realpath(known.path)}
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
