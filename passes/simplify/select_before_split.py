"""Selections from one part of a split axis move in front of the split.

Attention writes queries, keys and values as one layer, its features split in (3, heads,
dimensions), and then takes each of the three. Only one part of a split axis can be cut (see
``Axes.split_choice``), so the three would be cut alike. Taken as ranges of features before the
split, each is cut for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.axes import rank
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.names import graph_of, put_before, replace_input, replace_value
from prunedeploy.passes.operators.reshapes import splits
from prunedeploy.passes.operators.selections import along

# a result, and the index it takes; where the array has no axes, the result lacks the axis too
Taken = list[tuple[ir.Value, NDArray[np.int64]]]


@dataclass(frozen=True)
class SelectBeforeSplit:
    """Move Slice, Split and Gather of one index of a part in front of the Reshape.

    Refuses silently where somebody reads the split axis whole: its parts then belong together.
    So does a range of a part: that part itself can be cut where it is (rotary embeddings).
    """

    name: ClassVar[str] = "select-before-split"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        infer_shapes(model)
        notes: list[Note] = []
        while moved := _move(model.graph):
            notes += moved
            infer_shapes(model)
        models.drop_unused(model.graph)
        return PassResult(bool(notes), tuple(notes))


def _move(graph: ir.Graph) -> list[Note]:
    notes = []
    for node in list(graph):
        stack = _stack(node) if node.op_type == "Reshape" else None
        if stack is None:
            continue
        for value, indices in stack.taken:
            _take(stack, value, indices)
        _remove(stack)
        reason = "selections made before their axis is split"
        notes.append(Note("selections-moved", node.name or "?", "taken", reason, len(stack.taken)))
    return notes


@dataclass(frozen=True)
class Stack:
    """A Reshape that splits ``axis``, a Transpose behind it or none, and what is taken from it."""

    reshape: ir.Node
    transpose: ir.Node | None
    axis: int  # of the reshape's source
    sizes: list[int]  # of the parts it is split in
    part: int  # which of them is taken from
    position: int  # of that part among the axes of the reshape's result
    behind: int  # the same behind the transpose
    taken: Taken


def _stack(reshape: ir.Node) -> Stack | None:
    result, target = reshape.outputs[0], constant_array(reshape.inputs[1])
    if target is None or len(target) != rank(result):
        return None
    uses = list(result.uses())
    alone = len(uses) == 1 and not result.is_graph_output()
    transpose = uses[0].node if alone and uses[0].node.op_type == "Transpose" else None
    selected = _selections(result if transpose is None else transpose.outputs[0])
    if selected is None:
        return None
    behind, taken = selected
    position = behind
    if transpose is not None:
        width = len(target)
        position = list(transpose.attributes.get_ints("perm", range(width)[::-1]))[behind]
    for axis, parts in splits(reshape):
        sizes = [int(target[part]) for part in parts]
        if position in parts and min(sizes) > 0:
            part = parts.index(position)
            return Stack(reshape, transpose, axis, sizes, part, position, behind, taken)
    return None


def _selections(value: ir.Value) -> tuple[int, Taken] | None:
    """The one axis that all readers take from, and what each takes; None if they read more."""
    taken: Taken = []
    axes = set()
    if value.is_graph_output() or not value.uses():
        return None
    for use in value.uses():
        node, index = use.node, constant_array(use.node.inputs[-1])
        if use.idx != 0 or node.graph is not _graph(value):
            return None
        if node.op_type == "Gather" and index is not None and not index.ndim:
            width = rank(value) or 0
            axes.add(node.attributes.get_int("axis", 0) % width)
            taken.append((node.outputs[0], index.astype(np.int64)))
            continue
        selection = along(node)
        if selection is None or (node.op_type == "Slice" and len(selection) != 1):
            return None
        for result, axis, indices in selection:
            if indices is None or indices.size != 1:
                return None
            axes.add(axis)
            taken.append((result, indices))
    return (axes.pop(), taken) if len(axes) == 1 else None


def _graph(value: ir.Value) -> ir.Graph | ir.Function | None:
    producer = value.producer()
    return None if producer is None else producer.graph


def _take(stack: Stack, value: ir.Value, indices: NDArray[np.int64]) -> None:
    """Features taken by a Gather, split and transposed, in the place of ``value``."""
    source, reader = stack.reshape.inputs[0], value.producer()
    target = constant_array(stack.reshape.inputs[1])
    assert source is not None
    assert reader is not None
    assert target is not None
    features = np.arange(np.prod(stack.sizes)).reshape(stack.sizes)
    chosen = np.atleast_1d(indices) % stack.sizes[stack.part]
    shape = target.astype(np.int64).copy()
    shape[stack.position] = len(chosen)
    gather = ir.node("Gather", [source, None], {"axis": stack.axis})
    nodes = [gather, ir.node("Reshape", [gather.outputs[0], None], stack.reshape.attributes)]
    if stack.transpose is not None:
        nodes.append(ir.node("Transpose", nodes[-1].outputs, stack.transpose.attributes))
    if not indices.ndim:
        nodes.append(ir.node("Gather", [nodes[-1].outputs[0], None], {"axis": stack.behind}))
    for node in nodes:
        put_before(reader, node, f"{reader.name}.{node.op_type}", "result")
    replace_input(gather, 1, np.take(features, chosen, axis=stack.part).reshape(-1), "features")
    replace_input(nodes[1], 1, shape, "shape")
    if not indices.ndim:
        replace_input(nodes[-1], 1, np.array(0, np.int64), "index")
    replace_value(value, nodes[-1].outputs[0])


def _remove(stack: Stack) -> None:
    """The nodes that nobody reads any more, readers first."""
    graph = graph_of(stack.reshape)
    readers = dict.fromkeys(value.producer() for value, _ in stack.taken)
    for node in (*readers, stack.transpose, stack.reshape):
        if node is not None:
            graph.remove(node, safe=True)
