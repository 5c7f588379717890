"""Sizes that a network computes, taken apart into those that are known and those that are not.

``F.interpolate(x, size=...)`` and its like take batch and channels from the shape of x in one
piece: ``Concat(Shape(x)[0:2], [H, W])``. With a dynamic batch that piece is not constant, so that
the number of channels in it is computed as well, which keeps all of them. Apart, only the batch is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph import model as models
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.shape_targets import Entry, entries, selected
from prunedeploy.passes.names import add_initializer, graph_of, naming, put_before, unique_name


@dataclass(frozen=True)
class SplitShapes:
    """Replace pieces of a joined shape, of which some entries are known, by constants and the rest.

    A piece is a Shape, or a Gather or Slice of one. Others, and pieces of which nothing is known or
    all is dynamic, stay as they are.
    """

    name: ClassVar[str] = "split-shapes"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        infer_shapes(model)
        count = 0
        with naming(model.graph):
            for node in list(model.graph):
                if node.op_type == "Concat" and not node.domain:
                    count += _split(node)
        if count:
            _drop_shapes(model.graph)
            models.drop_unused(model.graph)
        what = "known sizes in computed shapes made constant"
        return PassResult(
            count > 0, (Note("shapes-split", "graph", "taken", what, count),) if count else ()
        )


def _split(concat: ir.Node) -> int:
    """Return how many operands of one Concat were split."""
    operands: list[ir.Value | None] = []
    count = 0
    for value in concat.inputs:
        picked = _picked(value)
        known = entries(value) if picked is not None else None
        if picked is None or known is None or not any(isinstance(entry, int) for entry in known):
            operands.append(value)
        else:
            operands += _parts(concat, *picked, known)
            count += 1
    if count:
        concat.resize_inputs(len(operands))
        for index, operand in enumerate(operands):
            concat.replace_input_with(index, operand)
    return count


def _picked(value: ir.Value | None) -> tuple[ir.Value, list[int]] | None:
    """A Shape's result, and which of its entries ``value`` has, in order."""
    node = value.producer() if value is not None else None
    if node is None or node.domain or not node.inputs:
        return None
    if node.op_type == "Shape":
        count = len(entries(value) or ())
        return (node.outputs[0], list(range(count))) if count else None
    before = _picked(node.inputs[0]) if node.op_type in ("Gather", "Slice") else None
    first = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if before is None or first is None or first.ndim != 1:
        return None
    shape, indices = before
    taken = selected(node, indices)
    return None if taken is None else (shape, taken)


def _parts(
    concat: ir.Node, shape: ir.Value, indices: list[int], known: list[Entry]
) -> Iterator[ir.Value]:
    """Constants for the runs of numbers, a Gather of the shape for each of the others."""
    graph = graph_of(concat)
    pairs = zip(known, indices, strict=True)
    for is_number, run in groupby(pairs, key=lambda pair: isinstance(pair[0], int)):
        numbers, positions = zip(*run, strict=True)
        if is_number:
            yield _constant(graph, f"sizes.{concat.name}", numbers)
            continue
        picked = _constant(graph, f"axes.{concat.name}", positions)
        gather = ir.node("Gather", [shape, picked], {"axis": 0})
        result = put_before(concat, gather, f"lengths.{concat.name}", "result")
        result.shape, result.type = ir.Shape([len(positions)]), ir.TensorType(ir.DataType.INT64)
        yield result


def _constant(graph: ir.Graph, hint: str, numbers: Sequence[object]) -> ir.Value:
    return add_initializer(graph, unique_name(graph, hint), np.array(numbers, np.int64))


def _drop_shapes(graph: ir.Graph) -> None:
    """Remove what computed the pieces, where nothing else reads it."""
    for node in reversed(list(graph)):
        idle = not any(value.uses() or value.is_graph_output() for value in node.outputs)
        if idle and node.op_type in ("Shape", "Gather", "Slice") and _is_sizes(node):
            graph.remove(node, safe=True)


def _is_sizes(node: ir.Node) -> bool:
    return node.op_type == "Shape" or _picked(node.outputs[0]) is not None
