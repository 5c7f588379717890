"""Reading and writing a model; its inputs and outputs, its size, its hash."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from prunedeploy.core import files
from prunedeploy.core.records import Dim, ModelStats, TensorSpec
from prunedeploy.graph import external_data, input_range, preparation, work
from prunedeploy.graph.shapes import infer_shapes

# ONNX allows 2 GiB in one protobuf, and writing one takes several times its size in memory: from
# here on the weights go to a file beside the model.
PROTOBUF_LIMIT = 2**29


def load(path: Path) -> ir.Model:
    """The ONNX model at ``path``, ready for every step.

    ``preparation.from_file`` also says what was repaired in it.

    Raises:
        UserError: the file is missing, is not ONNX or not valid ONNX, is cut short, or its weights
            are or lie outside of its folder, or nothing of its graph is an output.
    """
    return preparation.from_file(path).model


def save(model: ir.Model, path: Path) -> None:
    """Write ``model`` to ``path``, apart from whatever files its weights came from.

    Weights too large for one protobuf go to a file of the same name and ``.data`` beside it.
    """
    if weight_bytes(model) > PROTOBUF_LIMIT:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            # The file stays mapped: it cannot be closed while someone holds an array of it.
            array = tensor.numpy().copy()
            value.const_value = ir.Tensor(array, name=tensor.name, dtype=tensor.dtype)
    ir.save(model, path)


def data_files(path: Path) -> list[Path]:
    """The files beside the model at ``path`` that hold its weights; none for most models.

    Raises:
        UserError: one of them is outside of the model's folder, or no regular file.
    """
    return external_data.files(path)


def sha256(path: Path) -> str:
    """The SHA-256 of the model at ``path``, with the weights that lie in files beside it."""
    return files.sha256(path, *data_files(path))


def release(tensor: object) -> None:
    """Let go of the memory behind a weight that is mapped from a file.

    Its arrays stay valid: what is touched again is read again. Without it, going once through
    the weights of a large model would make all of it resident.
    """
    if isinstance(tensor, ir.ExternalTensor) and tensor.raw is not None:
        tensor.raw.madvise(mmap.MADV_DONTNEED)


def weight_bytes(model: ir.Model) -> int:
    """The bytes of all constants."""
    return sum(tensor.nbytes for tensor in _constants(model))


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The stored tensors: initializers and the values of Constant nodes, in all graphs."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            stored = node.attributes.get("value") if node.op_type == "Constant" else None
            if stored is not None and stored.type == ir.AttributeType.TENSOR:
                yield stored.as_tensor()


def spec(value: ir.Value) -> TensorSpec:
    """Name, dtype and shape of a graph input or output; unnamed dynamic sizes become ``?``."""
    dims: list[Dim] = []
    for dim in value.shape or ():
        dims.append(dim if isinstance(dim, int) else str(dim.value or "?"))
    dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
    return TensorSpec(str(value.name), dtype, tuple(dims))


def specs(model: ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of ``model``, without inputs that have an initializer."""
    ranges = input_range.of(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    fed = tuple(replace(spec(v), range=ranges.get(str(v.name))) for v in inputs)
    return fed, tuple(spec(v) for v in model.graph.outputs)


def stats(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> ModelStats:
    """Parameters, non-zeros and MACs of the model at ``path``, and its bytes on disk.

    ``shapes`` gives dynamic inputs the sizes that MACs are counted for; a layer whose result has
    no known size counts none.
    """
    model = load(path)
    for value in model.graph.inputs:
        if shapes is not None and (given := shapes.get(str(value.name))) is not None:
            value.shape = ir.Shape(given)
    infer_shapes(model)
    size = sum(file.stat().st_size for file in (path, *data_files(path)))
    parameters = nonzero = 0
    for tensor in _constants(model):
        if tensor.dtype.is_floating_point():
            parameters += math.prod(tensor.shape.numpy())
            nonzero += int(np.count_nonzero(tensor.numpy()))
            release(tensor)
    return ModelStats(parameters, nonzero, sum(map(work.macs, model.graph)), size)


def drop_unused(graph: ir.Graph) -> None:
    """Remove initializers that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
