"""Brings models to one form where ONNX has several for the same, before any other step.

Everything behind it may then take for granted: the standard domain is ``""``, an open size is a
symbol or nothing and never a negative number, weights are dense initializers of the main graph
wherever they can be, and what lies in files beside the model is either one of those or was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from prunedeploy.graph import protos, tensors
from prunedeploy.graph.protos import STANDARD, Graph, InvalidError

WEIGHT = 16  # elements from which a Constant is a weight and becomes an initializer


def normalise(model: onnx.ModelProto, path: Path | None) -> tuple[str, ...]:
    """Bring ``model`` to one form, in place; its tensors were checked.

    Args:
        model: an ONNX model as it was read.
        path: its file, None for a model in memory, which has no external data.

    Returns:
        What a reader may want to know of it.

    Raises:
        InvalidError: the two spellings of the standard domain have different opsets; a sparse
            tensor makes no sense.
    """
    _standard_domain(model)
    del model.training_info[:]  # how it was trained: no part of what it computes
    for graph in protos.all_graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _open_dims(value.type)
    sparse = _densify(model)
    _lift_constants(model.graph)
    _embed(model, path)
    return (f"{sparse} sparse tensor{'s' * (sparse > 1)}, read as dense",) if sparse else ()


def _standard_domain(model: onnx.ModelProto) -> None:
    """``ai.onnx`` is the long name of the domain that has none."""
    holders: Iterable[onnx.ModelProto | onnx.FunctionProto] = (model, *model.functions)
    for holder in holders:
        versions = {each.version for each in holder.opset_import if each.domain in STANDARD}
        if len(versions) > 1:
            raise InvalidError(f"it imports opsets {sorted(versions)} of ai.onnx at once")
        rest = [each for each in holder.opset_import if each.domain not in STANDARD]
        kept = [helper.make_opsetid("", version) for version in versions] + rest
        del holder.opset_import[:]
        holder.opset_import.extend(kept)
    for node in protos.all_nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""


def _open_dims(kind: onnx.TypeProto) -> None:
    """A negative size stands for one that is not known, as ONNX Runtime reads it."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        _open_dims(getattr(kind, which).elem_type)
    elif which == "map_type":
        _open_dims(kind.map_type.value_type)
    elif which in ("tensor_type", "sparse_tensor_type"):
        for dim in getattr(kind, which).shape.dim:
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value < 0:
                dim.ClearField("dim_value")


def _densify(model: onnx.ModelProto) -> int:
    """Sparse initializers and sparse Constants become dense ones; how many there were."""
    count = 0
    for graph in protos.all_graphs(model):
        graph.initializer.extend(tensors.dense(each) for each in graph.sparse_initializer)
        count += len(graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in protos.all_nodes(model):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("sparse_tensor"):
                full = helper.make_attribute("value", tensors.dense(attribute.sparse_tensor))
                attribute.CopyFrom(full)
                count += 1
    return count


def _lift_constants(graph: Graph) -> None:
    """Weights that are Constant nodes of the main graph become initializers, which are mapped."""
    outputs = {value.name for value in graph.output}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
            continue
        attribute = node.attribute[0]
        if not attribute.HasField("t") or len(node.output) != 1 or node.output[0] in outputs:
            continue
        external = tensors.is_external(attribute.t)
        if external or math.prod(attribute.t.dims) >= WEIGHT:
            attribute.t.name = node.output[0]
            graph.initializer.append(attribute.t)
            del graph.node[index]


def _embed(model: onnx.ModelProto, path: Path | None) -> None:
    """Read the external data of all tensors but the main graph's large initializers."""
    large = {
        tensor.name
        for tensor in model.graph.initializer
        if tensors.is_external(tensor) and tensors.size(tensor) > tensors.SMALL
    }
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in large]
    for tensor in (*kept, *_inner_tensors(model)):
        if tensors.is_external(tensor):
            assert path is not None  # ``tensors.check`` refuses models in memory
            tensors.embed(tensor, path)


def _inner_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All but the main graph's initializers."""
    for graph in islice(protos.all_graphs(model), 1, None):
        yield from protos.graph_tensors(graph)
    for node in protos.all_nodes(model):
        yield from protos.attribute_tensors(node)
