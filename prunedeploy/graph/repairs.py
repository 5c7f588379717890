"""Repairs common deviations from ONNX that can only mean one thing.

Converters write them, and runtimes, ONNX Runtime first of all, take many of them, so a network
that runs everywhere should not be turned away here. Each function puts one kind right in place and
says so; what could mean two things is refused. What is only another form of the same (sparse
initializers, the standard domain under its long name) is brought to one form in ``forms``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.graph import protos
from prunedeploy.graph.protos import STANDARD, Graph, InvalidError, label

SINCE_INITIALIZERS_ARE_NO_INPUTS = 4  # IR version


def repair(model: onnx.ModelProto) -> tuple[str, ...]:
    """Put right, in place, what can only mean one thing.

    Args:
        model: an ONNX model as it was read.

    Returns:
        What was put right, for the reader.

    Raises:
        InvalidError: something could mean two things.
    """
    notes = [
        *_ir_version(model),
        *_imports(model),
        *_graph_name(model.graph),
        *_initializers(model),
        *_node_names(model),
        *_gemm_without_c(model),
        *_resize_without_roi(model),
        *_untyped(model.graph),
    ]
    return tuple(notes)


def _count(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _ir_version(model: onnx.ModelProto) -> Iterable[str]:
    """Raise older files to IR version 4, from which on initializers need not be inputs.

    Weights that are inputs as well are ordinary in those; they stop to be inputs here.
    """
    version = model.ir_version
    inputs = {value.name for value in model.graph.input}
    missing = [x.name for x in model.graph.initializer if x.name not in inputs]
    opsets = model.opset_import or [helper.make_opsetid("", 1)]
    if not version:
        model.ir_version = max(
            SINCE_INITIALIZERS_ARE_NO_INPUTS,
            helper.find_min_ir_version_for(opsets, ignore_unknown=True),
        )
        yield f"no IR version: read as {model.ir_version}"
    elif version < SINCE_INITIALIZERS_ARE_NO_INPUTS:
        model.ir_version = SINCE_INITIALIZERS_ARE_NO_INPUTS
        if missing:
            what = _count(len(missing), "initializer is", "initializers are")
            yield f"{what} no input, which IR version {version} asks for: read as version 4"
        if version < 3 and not model.opset_import:
            model.opset_import.append(helper.make_opsetid("", 1))


def _imports(model: onnx.ModelProto) -> Iterable[str]:
    """Opsets of private domains that are not imported; version 1 is the only one that most have."""
    known = {each.domain for each in model.opset_import}
    calls = {(node.domain, node.op_type): node for node in protos.all_nodes(model)}
    for function in model.functions:
        for each in function.opset_import:
            if each.domain not in known and each.domain not in STANDARD:
                model.opset_import.append(each)
                known.add(each.domain)
    for domain in sorted({domain for domain, _ in calls}):
        if domain in known or (domain in STANDARD and known & set(STANDARD)):
            continue
        node = next(node for (other, _), node in calls.items() if other == domain)
        if domain in STANDARD or domain.startswith("ai.onnx"):
            raise InvalidError(
                f"it imports no opset of {domain or 'ai.onnx'}, which node {label(node)} is of"
            )
        model.opset_import.append(helper.make_opsetid(domain, 1))
        known.add(domain)
        yield f"no opset of {domain} imported: read as version 1"


def _graph_name(graph: Graph) -> Iterable[str]:
    if not graph.name:
        graph.name = "graph"
        yield "the graph has no name"


def _initializers(model: onnx.ModelProto) -> Iterable[str]:
    """An initializer that is there twice; the runtimes do not agree which one of two counts."""
    gone = 0
    for graph in protos.all_graphs(model):
        counts = Counter(tensor.name for tensor in graph.initializer)
        first: dict[str, TensorProto] = {}
        for index, tensor in reversed(list(enumerate(graph.initializer))):
            if counts[tensor.name] < 2:
                continue
            if first.setdefault(tensor.name, tensor) is tensor:
                continue
            if tensor.SerializeToString() != first[tensor.name].SerializeToString():
                raise InvalidError(f"two different initializers are called {tensor.name!r}")
            del graph.initializer[index]
            gone += 1
    if gone:
        yield _count(gone, "initializer was", "initializers were") + " there twice"


def _node_names(model: onnx.ModelProto) -> Iterable[str]:
    """Names of nodes that are not unique within their graph; nothing refers to them."""
    renamed = 0
    for graph in protos.all_graphs(model):
        taken = {node.name for node in graph.node}
        seen: set[str] = set()
        for node in graph.node:
            if node.name in seen and node.name:
                stem, number = node.name, 1
                while f"{stem}_{number}" in taken:
                    number += 1
                node.name = f"{stem}_{number}"
                taken.add(node.name)
                renamed += 1
            seen.add(node.name)
    if renamed:
        yield _count(renamed, "node has", "nodes have") + " a name that another has too: renamed"


def _gemm_without_c(model: onnx.ModelProto) -> Iterable[str]:
    """Gemm may leave out C since opset 11; in 7 to 10, where C is broadcast, zeros are the same."""
    opset = _opset(model)
    if not 7 <= opset < 11:
        return
    count = 0
    for graph in protos.graphs(model.graph):
        types = _types(model.graph) | _types(graph)
        for node in graph.node:
            if node.op_type != "Gemm" or node.domain not in STANDARD or not node.output:
                continue
            if len(node.input) == 2 or (len(node.input) == 3 and not node.input[2]):
                kind = types.get(node.input[1]) or types.get(node.input[0])
                if kind is None:
                    raise InvalidError(f"node {label(node)} has no C, and A and B no known type")
                zeros = np.zeros(_columns((model.graph, graph), node), _dtype(kind))
                name = _free(model, f"{node.output[0]}.C")
                graph.initializer.append(numpy_helper.from_array(zeros, name))
                del node.input[2:]
                node.input.append(name)
                count += 1
    if count:
        what = _count(count, "Gemm has", "Gemms have")
        yield f"{what} no C, which opset {opset} asks for: zeros"


def _resize_without_roi(model: onnx.ModelProto) -> Iterable[str]:
    """Resize may leave out region and scales since opset 13; before, empty ones are the same."""
    opset = _opset(model)
    if not 11 <= opset < 13:
        return
    count = 0
    for graph in protos.graphs(model.graph):
        for node in graph.node:
            missing = [i for i, name in enumerate(node.input) if i in (1, 2) and not name]
            known = node.op_type == "Resize" and node.domain in STANDARD
            if not (known and missing and node.output):
                continue
            name = _free(model, f"{node.output[0]}.empty")
            graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), name))
            for index in missing:
                node.input[index] = name
            count += 1
    if count:
        what = _count(count, "Resize has", "Resizes have")
        yield f"{what} no region or scales, which opset {opset} asks for: empty ones"


def _opset(model: onnx.ModelProto) -> int:
    return next((int(x.version) for x in model.opset_import if x.domain in STANDARD), 0)


def _dtype(kind: int) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _columns(graphs: Iterable[Graph], node: onnx.NodeProto) -> int:
    """How many columns the result of a Gemm has where its B is an initializer, else 1."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    for graph in graphs:
        for tensor in graph.initializer:
            if tensor.name == node.input[1] and len(tensor.dims) == 2:
                return int(tensor.dims[0 if transposed else 1])
    return 1


def _types(graph: Graph) -> dict[str, int]:
    """Element types of values, as far as the file says."""
    types = {x.name: x.data_type for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types.setdefault(value.name, value.type.tensor_type.elem_type)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t") and node.output:
                types[node.output[0]] = attribute.t.data_type
    return types


def _free(model: onnx.ModelProto, name: str) -> str:
    """``name``, or with a number where a value has it already."""
    taken = {output for node in protos.all_nodes(model) for output in node.output}
    for graph in protos.all_graphs(model):
        taken |= {x.name for x in (*graph.initializer, *graph.input)}
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _untyped(graph: Graph) -> Iterable[str]:
    """Outputs without a type or a shape, and inner values without a type: operators tell them."""
    for index, value in reversed(list(enumerate(graph.value_info))):
        kind = value.type.WhichOneof("value")
        if kind is None or (kind == "tensor_type" and not value.type.tensor_type.elem_type):
            del graph.value_info[index]
    bare = [value.name for value in graph.output if value.type.WhichOneof("value") is None]
    if bare:
        yield f"output {', '.join(bare)} has no type: read from the operators"
