"""What of a model does not depend on its inputs' numbers, written down as constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.graph.subgraphs import bodies
from prunedeploy.runtimes.hybrid.survey import Survey
from prunedeploy.runtimes.sparse.importer.importer import label


def fold(model: ir.Model, survey: Survey) -> None:
    """Make every value that is the same whatever is fed an initializer, in place.

    A Reshape to a shape that depends on the batch alone gets a constant shape with one open size,
    so that what computes the shape need not cross a cut.
    """
    graph = model.graph
    for node in list(graph):
        names = [str(value.name) for value in node.outputs if value.name]
        if names and not bodies(node) and all(survey.is_constant(name) for name in names):
            for value in node.outputs:
                _replace(value, model, survey)
        elif label(node) == "Reshape" and len(node.inputs) > 1:
            _open_reshape(node, survey)
    common.RemoveUnusedNodesPass()(model)


def _replace(value: ir.Value, model: ir.Model, survey: Survey) -> None:
    """An initializer for whoever reads ``value``; an output of the graph stays what it is."""
    array = survey.tensors(str(value.name))[0].value if value.uses() else None
    if array is None:
        return
    name = f"{value.name}.constant"
    constant = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name),
    )
    model.graph.register_initializer(constant)
    value.replace_all_uses_with(constant)


def _open_reshape(node: ir.Node, survey: Survey) -> None:
    """Give ``node`` a constant shape where one size of its result alone depends on the batch."""
    wanted, result = node.inputs[1], node.outputs[0]
    shapes = [tensor.shape for tensor in survey.tensors(str(result.name))]
    if wanted is None or node.graph is None or len(shapes) < 2 or 0 in shapes[0]:
        return
    if not survey.is_folded(str(wanted.name)) or survey.is_constant(str(wanted.name)):
        return
    differs = [len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True)]
    if differs.count(True) != 1:
        return
    shape = [-1 if open_ else size for open_, size in zip(differs, shapes[0], strict=True)]
    name = f"{result.name}.shape"
    constant = ir.Value(
        name=name,
        shape=ir.Shape([len(shape)]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.array(shape, np.int64), name=name),
    )
    node.graph.register_initializer(constant)
    node.replace_input_with(1, constant)
