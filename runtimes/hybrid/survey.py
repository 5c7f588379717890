"""What the sparse runtime can compute of a model, node by node, and where the model may be cut.

Nodes are read one after the other as for a whole sparse engine. Where one is refused the results
that ONNX's shape inference knows the sizes of are taken for inputs, and reading goes on behind it.
A model that leaves its batch open is read at three batch sizes, which shows what the batch decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.runtimes.sparse.importer.builder import Builder
from prunedeploy.runtimes.sparse.importer.graph import Graph, Tensor, constant
from prunedeploy.runtimes.sparse.importer.importer import (
    TYPES,
    RefusedError,
    check_version,
    import_node,
    label,
)
from prunedeploy.runtimes.sparse.importer.operators import TABLE

UNKNOWN = "the sparse runtime does not know it"
BATCH = "batch"  # the name of the open size in models of parts


@dataclass(frozen=True)
class Refusal:
    """Why a node is left to ONNX Runtime.

    ``code`` is one of unknown-operator, unknown-form, unknown-size, cannot-cut, cannot-lower,
    no-weights, no-gain; ``reason`` says it in words.
    """

    code: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """One reading of a model, or several at different batch sizes.

    Attributes:
        batches: the batch size of each reading; three where the model leaves it open.
        values: the tensors of each reading by name; without those of unknown sizes.
        refused: the nodes that ONNX Runtime computes, by name.
    """

    batches: tuple[int, ...]
    values: tuple[Mapping[str, Tensor], ...]
    refused: Mapping[str, Refusal]

    def tensors(self, name: str) -> tuple[Tensor, ...]:
        """A value in each reading; nothing where one of them does not know it."""
        if not all(name in values for values in self.values):
            return ()
        return tuple(values[name] for values in self.values)

    def is_folded(self, name: str) -> bool:
        """Whether a value does not depend on the inputs' numbers."""
        tensors = self.tensors(name)
        return bool(tensors) and all(tensor.value is not None for tensor in tensors)

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same whatever the inputs and the batch."""
        first = self.tensors(name)[0].value if self.is_folded(name) else None
        rest = [tensor.value for tensor in self.tensors(name)[1:]]
        return first is not None and all(
            each is not None and each.dtype == first.dtype and np.array_equal(each, first)
            for each in rest
        )

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """The sizes of a value with the batch open; None where another size depends on it too."""
        shapes = [tensor.shape for tensor in self.tensors(name)]
        if not shapes:
            return None
        if all(shape == shapes[0] for shape in shapes):
            return shapes[0]
        same = all(shape[1:] == shapes[0][1:] for shape in shapes)
        if not same or [shape[0] for shape in shapes] != list(self.batches):
            return None
        return (BATCH, *shapes[0][1:])


def survey(model: ir.Model, batches: tuple[int, ...]) -> Survey:
    """Read ``model``, as ``importer.prepare`` leaves it, once for each batch size."""
    refused: dict[str, Refusal] = {}
    values = []
    for batch in batches:
        known, why = _read(model, batch)
        values.append(known)
        refused = {**why, **refused}
    return Survey(batches, tuple(values), refused)


def _read(model: ir.Model, batch: int) -> tuple[dict[str, Tensor], dict[str, Refusal]]:
    sized = _sized(model, batch)
    values: dict[str, Tensor | None] = {"": None}
    for name, value in sized.graph.initializers.items():
        if value.const_value is not None:
            values[name] = constant(value.const_value.numpy())
    graph = Graph([])
    for value in sized.graph.inputs:
        _take(value, values)
    refused: dict[str, Refusal] = {}
    for node in sized.graph:
        why = _import(node, values, graph, sized)
        if why is not None:
            refused[str(node.name)] = why
            for value in node.outputs:
                _take(value, values)
    return {name: tensor for name, tensor in values.items() if tensor is not None}, refused


def _sized(model: ir.Model, batch: int) -> ir.Model:
    """A copy with the batch fixed, and all sizes inferred that follow from it."""
    copy = model.clone()  # it shares the weights
    inputs = [x for x in copy.graph.inputs if x.name not in copy.graph.initializers]
    first = [list(value.shape or ())[:1] for value in inputs]
    names = {str(dim.value) for [dim] in filter(None, first) if not isinstance(dim, int)}
    made = [value for node in copy.graph for value in node.outputs]
    for value in (*inputs, *made):
        if value.shape is not None:
            value.shape = ir.Shape(
                batch if not isinstance(dim, int) and _is_batch(dim, axis, value, names) else dim
                for axis, dim in enumerate(value.shape)
            )
    infer_shapes(copy)
    return copy


def _is_batch(dim: ir.SymbolicDim, axis: int, value: ir.Value, names: set[str]) -> bool:
    """Whether an open size is the batch; in an input the first is, though it has no name."""
    if dim.value is None:
        return axis == 0 and value.producer() is None
    return str(dim.value) in names


def _import(
    node: ir.Node, values: dict[str, Tensor | None], graph: Graph, model: ir.Model
) -> Refusal | None:
    """Read one node, its results to ``values``; or why it is refused."""
    known = label(node) in TABLE
    names = [str(value.name) for value in node.inputs if value is not None]
    if absent := [name for name in names if name not in values]:
        if known:
            return Refusal("unknown-size", f"the sizes of {absent[0]} are not known")
        return Refusal("unknown-operator", UNKNOWN)
    try:
        check_version(node, model.opset_imports)
        import_node(node, values, Builder(graph, str(node.name)), TABLE, model)
    except RefusedError as error:
        return Refusal("unknown-form" if known else "unknown-operator", error.reason)
    except UserError as error:  # of a constant that the reference cannot compute
        return Refusal("unknown-form", str(error))
    return None


def _take(value: ir.Value, values: dict[str, Tensor | None]) -> None:
    """Take a value for an input of what is behind it, where a sparse engine could have it."""
    shape = list(value.shape) if value.shape is not None else [None]
    sizes = tuple(dim for dim in shape if isinstance(dim, int) and dim > 0)
    values.pop(str(value.name), None)
    if value.dtype in TYPES and len(sizes) == len(shape):
        dtype = TYPES[value.dtype]
        values[str(value.name)] = Tensor(sizes, dtype, raw=dtype != "float32")
