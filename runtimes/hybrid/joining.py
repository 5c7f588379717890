"""Models of parts for the sparse runtime, and the whole with a node in each part's place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.errors import UnsupportedModelError
from prunedeploy.graph.model import drop_unused, save
from prunedeploy.runtimes.hybrid.custom_op import DOMAIN, MAX_ENGINE_BYTES, OP
from prunedeploy.runtimes.hybrid.partition import Part
from prunedeploy.runtimes.hybrid.survey import Survey


def model_of(part: Part, model: ir.Model, survey: Survey) -> ir.Model:
    """``part`` as a model of its own, whose inputs and outputs are those of the part.

    Names stay; the sizes at the edges are those of the survey, the batch open where it was.
    """
    values: dict[ir.Value, ir.Value] = {value: _edge(value, survey) for value in part.inputs}
    inputs = list(values.values())
    weights: list[ir.Value] = []
    nodes = []
    for node in part.nodes:
        for value in node.inputs:
            if value is not None and value not in values:
                values[value] = _weight(value)
                weights.append(values[value])
        made = [_edge(value, survey) for value in node.outputs]
        values |= zip(node.outputs, made, strict=True)
        nodes.append(
            ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else values[value] for value in node.inputs],
                tuple(node.attributes.values()),
                overload=node.overload,
                outputs=made,
                name=node.name,
            )
        )
    graph = ir.Graph(
        inputs,
        [values[value] for value in part.outputs],
        nodes=nodes,
        initializers=weights,
        opset_imports=dict(model.opset_imports),
        name="part",
    )
    return ir.Model(graph, ir_version=model.ir_version)


def _edge(value: ir.Value, survey: Survey) -> ir.Value:
    """A value of the same name and type, with the sizes of the survey."""
    shape = survey.shape(str(value.name))
    tensors = survey.tensors(str(value.name))
    kind = value.type
    if kind is None and tensors:
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(tensors[0].dtype)))
    return ir.Value(name=value.name, shape=None if shape is None else ir.Shape(shape), type=kind)


def _weight(value: ir.Value) -> ir.Value:
    return ir.Value(
        name=value.name, shape=value.shape, type=value.type, const_value=value.const_value
    )


def node_name(index: int) -> str:
    """The name of the node in the place of part ``index``."""
    return f"sparse_{index}"


def join(model: ir.Model, parts: Sequence[Part], engines: Sequence[bytes], path: Path) -> None:
    """Write ``model`` to ``path`` with a node that holds its engine in the place of each part.

    Raises:
        UnsupportedModelError: the engines are too large for one ONNX file.
    """
    if sum(map(len, engines)) > MAX_ENGINE_BYTES:
        raise UnsupportedModelError("hybrid", "parts whose engines are larger than an ONNX file")
    copy = model.clone()
    nodes = {str(node.name): node for node in copy.graph}
    for index, part in enumerate(parts):
        _put(copy.graph, [nodes[str(node.name)] for node in part.nodes], part, node_name(index))
    common.TopologicalSortPass()(copy)
    common.RemoveUnusedNodesPass()(copy)
    drop_unused(copy.graph)
    copy.opset_imports[DOMAIN] = 1
    save(copy, path)
    _embed(path, engines)


def _put(graph: ir.Graph, nodes: Sequence[ir.Node], part: Part, name: str) -> None:
    """Replace ``nodes`` by one node of the custom op."""
    read = {value.name: value for node in nodes for value in node.inputs if value is not None}
    made = {value.name: value for node in nodes for value in node.outputs}
    inputs = [read[value.name] for value in part.inputs]
    replaced = [made[value.name] for value in part.outputs]
    outputs = [ir.Value(name=old.name, shape=old.shape, type=old.type) for old in replaced]
    op = ir.Node(DOMAIN, OP, inputs, outputs=outputs, name=name)
    graph.append(op)
    for old, new in zip(replaced, outputs, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(nodes, safe=True)


def _embed(path: Path, engines: Sequence[bytes]) -> None:
    """Write each engine into its node; onnx_ir holds text in attributes, not bytes."""
    proto = onnx.load(path, load_external_data=False)
    holders = [node for node in proto.graph.node if (node.domain, node.op_type) == (DOMAIN, OP)]
    for node in holders:
        engine = engines[int(node.name.rpartition("_")[2])]
        node.attribute.append(onnx.helper.make_attribute("engine", engine))
    path.write_bytes(proto.SerializeToString())
