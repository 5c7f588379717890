"""Tensors as a model's file stores them: checks of their sizes, sparse ones made dense."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper

from prunedeploy.core.budget import Budget
from prunedeploy.graph import external_data, protos
from prunedeploy.graph.protos import InvalidError
from prunedeploy.graph.shapes import MAX_AXES

# Above this onnx_ir's checks set an external tensor aside instead of reading it; see
# ``onnx_ir.passes.common._c_api_utils``, which has 1000.
SMALL = 1024  # bytes
REFERENCE = 8  # bytes

# In which field of TensorProto a type is stored where raw_data is not used, and how many entries
# an element takes there (onnx.proto, TensorProto). All other types are in ``int32_data``, those of
# less than a byte packed.
ENTRIES: dict[int, tuple[str, float]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}


def element_bytes(kind: ir.DataType) -> float:
    """The bytes of an element in memory: half of one for int4, those of a reference for a text."""
    return REFERENCE if kind in (ir.DataType.STRING, ir.DataType.UNDEFINED) else kind.itemsize


def is_external(tensor: TensorProto) -> bool:
    """Whether the data lie in a file of their own."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def check(tensor: TensorProto, path: Path | None, of: str = "") -> None:
    """Check that the stored data have exactly the size that shape and type require.

    Args:
        tensor: of a model.
        path: the model's file, None for a model in memory, which has no folder.
        of: what it belongs to, where its name does not say that.

    Raises:
        InvalidError: the data are missing, or of another size.
        UserError: the data lie in a file that the model may not read.
    """
    name = f"{f'tensor {tensor.name!r}' if tensor.name else 'the tensor'}{of}"
    if any(dim < 0 for dim in tensor.dims):
        raise InvalidError(f"{name} has the shape {list(tensor.dims)}")
    if len(tensor.dims) > MAX_AXES:
        raise InvalidError(f"{name} has {len(tensor.dims):,} axes")
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        raise InvalidError(f"{name} has no element type that ONNX knows: {tensor.data_type}")
    if is_external(tensor):
        _check_external(tensor, name, path)
        return
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        wanted, have, unit = size(tensor), len(tensor.raw_data), "bytes"
    else:
        field, each = _entries(tensor.data_type)
        wanted, have, unit = math.ceil(count * each), len(getattr(tensor, field)), "numbers"
    if wanted != have:
        shape = "x".join(map(str, tensor.dims)) or "scalar"
        raise InvalidError(f"{name} holds {have} {unit}, its shape {shape} takes {wanted}")


def _entries(data_type: int) -> tuple[str, float]:
    if data_type in ENTRIES:
        return ENTRIES[data_type]
    return "int32_data", min(1.0, ir.DataType(data_type).bitwidth / 8)


def size(tensor: TensorProto) -> int:
    """How many bytes the elements take, packed."""
    if tensor.data_type == TensorProto.STRING:
        raise InvalidError(f"tensor {tensor.name!r} holds strings as raw data")
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def _check_external(tensor: TensorProto, name: str, path: Path | None) -> None:
    if path is None:
        raise InvalidError(f"{name} lies in a file of its own: give the path of the model's file")
    entry = _entry(tensor)
    real = external_data.resolve(path, entry.get("location", ""))
    try:
        offset = int(entry.get("offset", "0"))
        length = int(entry.get("length") or size(tensor))
    except ValueError:
        raise InvalidError(f"{name} lies at {entry.get('offset')}, {entry.get('length')}") from None
    available = real.stat().st_size
    if offset < 0 or length < 0 or offset + length > available:
        raise InvalidError(
            f"{name} lies at bytes {offset} to {offset + length} of {entry['location']}, "
            f"which has {available}"
        )
    if length != size(tensor):
        raise InvalidError(f"{name} has {length} bytes, its shape takes {size(tensor)}")


def _entry(tensor: TensorProto) -> dict[str, str]:
    return {each.key: each.value for each in tensor.external_data}


def mapped(tensor: TensorProto, path: Path) -> ir.ExternalTensor:
    """A checked external tensor, mapped from its file when it is first read."""
    entry = _entry(tensor)
    # without a base folder onnx_ir checks the path no more: ``check`` did, links of caches included
    return ir.ExternalTensor(
        str(external_data.resolve(path, entry["location"])),
        int(entry.get("offset", "0")),
        size(tensor),
        ir.DataType(tensor.data_type),
        shape=ir.Shape(tensor.dims),
        name=tensor.name,
    )


def embed(tensor: TensorProto, path: Path) -> None:
    """Bring checked external data into the tensor itself."""
    entry = _entry(tensor)
    with external_data.resolve(path, entry["location"]).open("rb") as file:
        file.seek(int(entry.get("offset", "0")))
        tensor.raw_data = file.read(size(tensor))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def check_dense(model: onnx.ModelProto) -> None:
    """Check that the model's sparse tensors, once dense, are in proportion to it.

    Raises:
        OverBudgetError: they would take too much memory.
    """
    sparse = [each for graph in protos.all_graphs(model) for each in graph.sparse_initializer]
    sparse += [each for node in protos.all_nodes(model) for each in protos.sparse_attributes(node)]
    bits = sum(math.prod(x.dims) * ir.DataType(x.values.data_type).bitwidth for x in sparse)
    if sparse:
        budget = Budget(model.ByteSize())
        budget.check("its sparse tensors, made dense,", bits // 8, budget.unpacked, "bytes")


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    """A sparse tensor (COO, onnx.proto SparseTensorProto) with its zeros.

    Args:
        sparse: its values of shape [nnz]; its indices of shape [nnz], into the flattened tensor,
            or [nnz, rank].

    Raises:
        InvalidError: an index is out of bounds or twice there.
    """
    name = sparse.values.name
    dims = list(sparse.dims)
    if any(dim < 0 for dim in dims):
        raise InvalidError(f"sparse tensor {name!r} has the shape {dims}")
    values, indices = (numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    if indices.ndim == 2 and indices.shape[1] == len(dims):
        inside = ((indices >= 0) & (indices < np.array(dims))).all()
        flat = np.ravel_multi_index(tuple(indices.T), dims) if inside and len(indices) else None
        flat = np.zeros(0, np.int64) if flat is None and inside else flat
    else:
        flat = indices if indices.ndim == 1 else None
    if flat is None or flat.dtype.kind not in "iu" or flat.shape != values.shape:
        raise InvalidError(f"sparse tensor {name!r} has {values.size} values and other indices")
    total = math.prod(dims)
    if len(flat) and (flat.min() < 0 or flat.max() >= total or len(np.unique(flat)) < len(flat)):
        raise InvalidError(f"sparse tensor {name!r} has indices twice or beyond its shape {dims}")
    full = np.zeros(total, values.dtype)
    full[flat] = values
    return numpy_helper.from_array(full.reshape(dims), name)


def check_all(model: onnx.ModelProto, path: Path | None) -> None:
    """``check`` for every tensor that the model stores.

    Raises:
        InvalidError: the data of one are not what its shape asks for.
        UserError: one is said to lie where the model may not read, or sparse ones are too large.
    """
    for graph in protos.all_graphs(model):
        for tensor in protos.graph_tensors(graph):
            check(tensor, path)
    for node in protos.all_nodes(model):
        for tensor in protos.attribute_tensors(node):
            check(tensor, path, f" of node {protos.label(node)}")
    check_dense(model)
