"""Reading a model: its inputs and outputs, its size, its multiply-accumulates."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import external_data as ir_external_data

from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, ModelStats, TensorSpec
from prunedeploy.graph import external_data, input_range, preparation
from prunedeploy.graph.shapes import infer_shapes

# ONNX allows 2 GiB in one protobuf, and writing one takes several times its size in memory: from
# here on the weights go to a file beside the model.
PROTOBUF_LIMIT = 2**29


def load(path: Path) -> ir.Model:
    """The ONNX model at ``path``, ready for every step (see ``preparation``).

    Raises:
        UserError: the file is missing, is not ONNX or not valid ONNX, is cut short, or its weights
            are or lie outside of its folder, or nothing of its graph is an output.
    """
    return preparation.from_file(path)


def save(model: ir.Model, path: Path) -> None:
    """Write ``model`` to ``path``, apart from whatever files its weights came from.

    Weights too large for one protobuf go to a file of the same name and ``.data`` beside it.
    """
    if weight_bytes(model) > PROTOBUF_LIMIT:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            [value.const_value] = ir_external_data.convert_tensors_from_external(
                [value.const_value]
            )
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
    """Bytes of all constants."""
    return sum(tensor.nbytes for tensor in _constants(model))


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """What is stored in a model: initializers and the values of Constant nodes, in all graphs."""
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
    """What a caller feeds, and gets. Initializers that are also listed as inputs are not fed."""
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
    return ModelStats(parameters, nonzero, sum(map(node_macs, model.graph)), size)


def drop_unused(graph: ir.Graph) -> None:
    """Remove initializers that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def node_macs(node: ir.Node) -> int:
    """Multiply-accumulates of one node for one sample; 0 where the shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    weight = node.inputs[1]
    source = node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]
    if weight is None or weight.shape is None or source is None or source.shape is None:
        return 0
    shape, kernel = list(source.shape)[1:], list(weight.shape)
    if not all(isinstance(d, int) for d in (*shape, *kernel)):
        return 0
    numbers = [int(d) for d in shape if isinstance(d, int)]
    taps = [int(d) for d in kernel if isinstance(d, int)]
    if node.op_type in ("Conv", "ConvTranspose"):
        # every output (input, when transposed) element meets one filter
        return math.prod(numbers) * math.prod(taps[1:])
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", False)
    return math.prod(numbers) * taps[-1 if transposed else -2]


@contextmanager
def shaped_outputs(model: ir.Model) -> Iterator[None]:
    """For the checker: outputs that nobody can tell the shape or type of have some.

    ONNX asks for both, and has no way to say that even the number of dimensions is open.
    """
    bare = [(v, v.shape, v.type) for v in model.graph.outputs if v.shape is None or v.type is None]
    for value, shape, kind in bare:
        value.shape, value.type = shape or ir.Shape(()), kind or ir.TensorType(ir.DataType.FLOAT)
    try:
        yield
    finally:
        for value, shape, kind in bare:
            value.shape, value.type = shape, kind


def check(model: ir.Model) -> None:
    """Run the ONNX checker.

    Raises:
        UserError: the model breaks the ONNX specification.
    """
    from onnx_ir.passes.common import CheckerPass

    try:
        with shaped_outputs(model):
            CheckerPass(full_check=False)(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise UserError(f"the model is not valid ONNX: {str(error).splitlines()[0]}") from None
