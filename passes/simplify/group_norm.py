"""Group normalisation as exporters write it, made plain enough for channels to be cut from it.

Reshape to [N, groups, ...], InstanceNormalization without scale and bias (ones and zeros that all
such norms share), Reshape back to the shape before. Here that shape is written down, and every
norm gets ones and zeros of its own: what is shared would have to be cut everywhere alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import graph_of, initializer, put_before, replace_input, unique_name


@dataclass(frozen=True)
class PlainGroupNorm:
    """Write down the shape that a group norm goes back to, and unshare its scale and bias.

    Where more than the batch and one other size is dynamic, no number stands for two: batch and
    channels are written down, the sizes behind them stay computed.
    """

    name: ClassVar[str] = "plain-group-norm"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        infer_shapes(model)
        notes = []
        for node in list(model.graph):
            if node.op_type == "InstanceNormalization" and not node.domain:
                back = _back(node)
                if back is not None and (_write_shape(*back) | _unshare(node)):
                    where, what = node.name or "?", "group norm made plain"
                    notes.append(Note("group-norm-simplified", where, "taken", what, 1))
        if notes:
            _drop_shapes(model.graph)
            models.drop_unused(model.graph)
            infer_shapes(model)
        return PassResult(bool(notes), tuple(notes))


def _back(norm: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Reshape behind the norm, and the value before the Reshape in front of it."""
    uses, source = list(norm.outputs[0].uses()), norm.inputs[0]
    first = source.producer() if source is not None else None
    if first is None or len(uses) != 1 or norm.outputs[0].is_graph_output():
        return None
    last, before = uses[0].node, first.inputs[0]
    if first.op_type != "Reshape" or last.op_type != "Reshape" or before is None:
        return None
    shape = last.inputs[1]
    asked = shape.producer() if shape is not None else None
    of_before = asked is not None and asked.op_type == "Shape" and asked.inputs[0] is before
    if asked is not None and of_before:
        of_before = not asked.attributes.get_int("start", 0) and "end" not in asked.attributes
    return (last, before) if of_before or constant_array(shape) is not None else None


def _write_shape(last: ir.Node, before: ir.Value) -> bool:
    """The shape as a list of numbers: 0 for the batch, which the norm passed on, -1 for another."""
    source = last.inputs[0]
    if constant_array(last.inputs[1]) is not None or source is None:
        return False
    if before.shape is None or not source.shape or not rank(before):
        return False
    sizes = [static_size(before, axis) for axis in range(rank(before) or 0)]
    batch = before.shape[0]
    if isinstance(batch, ir.SymbolicDim) and batch.value and batch == source.shape[0]:
        sizes[0] = 0
    if 0 in sizes[1:]:
        return False
    if sizes.count(None) > 1:
        return _write_channels(last, sizes[:2], len(sizes))
    shape = np.array([-1 if size is None else size for size in sizes], np.int64)
    replace_input(last, 1, shape, "shape")
    return True


def _write_channels(last: ir.Node, sizes: list[int | None], rank: int) -> bool:
    """Batch and channels as numbers, where they are known, before the other sizes as they are."""
    shape, graph = last.inputs[1], graph_of(last)
    if None in sizes or shape is None:
        return False
    numbers = {"sizes": np.array(sizes, np.int64), "behind": np.arange(2, rank, dtype=np.int64)}
    values = {name: initializer(None, array) for name, array in numbers.items()}
    for name, value in values.items():
        value.name = unique_name(graph, f"{last.name}.{name}")
        graph.register_initializer(value)
    name = last.name or "norm"
    rest = put_before(last, ir.node("Gather", [shape, values["behind"]]), f"{name}.rest")
    target = put_before(
        last, ir.node("Concat", [values["sizes"], rest], {"axis": 0}), f"{name}.target"
    )
    last.replace_input_with(1, target)
    return True


def _unshare(norm: ir.Node) -> bool:
    """Own copies of scale and bias that other nodes read too."""
    changed = False
    for index, value in enumerate(norm.inputs[1:3], start=1):
        array = constant_array(value)
        if value is not None and array is not None and len(value.uses()) > 1:
            replace_input(norm, index, array, "scale" if index == 1 else "bias")
            changed = True
    return changed


def _drop_shapes(graph: ir.Graph) -> None:
    """The nodes that computed the shapes, where nobody else reads them."""
    for node in list(graph):
        result = node.outputs[0]
        if node.op_type == "Shape" and not result.uses() and not result.is_graph_output():
            graph.remove(node, safe=True)
