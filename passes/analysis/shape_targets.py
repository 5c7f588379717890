"""Shapes that a network computes: which of their entries are known, and how to change one.

Exporters write the target of a Reshape, an Expand or a ConstantOfShape as a chain of Shape,
Slice, Gather and Concat when one dimension, the batch, is dynamic. The entries that are plain
numbers can still be rewritten where the Concat has them as constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.lengths import Length, lengths_of, solved
from prunedeploy.passes.names import graph_of, put_before, replace_input

T = TypeVar("T")
# A number, the name of a dynamic dimension or a product of such, or None where nothing is known.
Entry = int | str | None

SAME = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
MAX_DEPTH = 12  # nodes in a chain; operands in common are looked at once for each reader


def entries(value: ir.Value | None, depth: int = MAX_DEPTH) -> list[Entry] | None:
    """The entries of a tensor of integers, in order, as far as they are known."""
    if value is None or not depth:
        return None
    if (array := constant_array(value)) is not None:
        return [int(n) for n in array.reshape(-1)] if array.dtype.kind in "iu" else None
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type == "Shape":
        return _shape(node)
    if value.dtype is None or not value.dtype.is_integer():
        return None
    if node.op_type == "Concat":
        parts = [entries(part, depth - 1) for part in node.inputs]
        return None if None in parts else [e for part in parts for e in part or []]
    before = entries(node.inputs[0], depth - 1)
    if before is None:
        return None
    if node.op_type in SAME:
        return before
    if node.op_type in ("Gather", "Slice"):
        return selected(node, before)
    if node.op_type in ("Add", "Div", "Mul", "Sub"):
        return _computed(node, before, entries(node.inputs[1], depth - 1))
    return None


def _shape(node: ir.Node) -> list[Entry] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 1 << 30)
    dims = list(source.shape)[start:end]
    return [dim if isinstance(dim, int) else dim.value for dim in dims]


def selected(node: ir.Node, before: list[T]) -> list[T] | None:
    """What a Gather or Slice takes of a list; None where that is not known."""
    if rank(node.inputs[0]) != 1 if node.inputs[0] is not None else True:
        return None
    given = [constant_array(value) for value in node.inputs[1:]]
    if any(array is None for array in given):
        return None
    numbers = [[int(n) for n in np.asarray(array).reshape(-1)] for array in given]
    if node.op_type == "Gather":
        inside = all(-len(before) <= i < len(before) for i in numbers[0])
        return [before[i] for i in numbers[0]] if inside else None
    if any(len(part) != 1 for part in numbers) or len(numbers) < 2:
        return None
    step = numbers[3][0] if len(numbers) > 3 else 1
    return before[slice(numbers[0][0], numbers[1][0], step)]


def _computed(node: ir.Node, left: list[Entry], right: list[Entry] | None) -> list[Entry] | None:
    if right is None or len(left) != len(right):
        return None
    return [_combined(node.op_type, a, b) for a, b in zip(left, right, strict=True)]


def _combined(operator: str, left: Entry, right: Entry) -> Entry:
    if left is None or right is None:
        return None
    if operator in ("Div", "Mul"):
        one, other = Length.of(left), Length.of(right)
        result = one * other if operator == "Mul" else one.over(other)
        return None if result is None else result.dim
    if isinstance(left, str) or isinstance(right, str):
        return None
    return left + right if operator == "Add" else left - right


def name_lengths(graph: ir.Graph) -> None:
    """Give dynamic lengths that a network copies by way of a target shape the name they had.

    Shape inference makes up a new name for each: ``unk__`` and a number.
    """
    names: dict[str, int | str] = {}
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
        known = reshaped(node) if node.op_type == "Reshape" and node.outputs[0].shape else None
        if known is None:
            continue
        for dim, length in zip(node.outputs[0].shape or (), known, strict=True):
            if isinstance(dim, ir.SymbolicDim) and str(dim.value or "").startswith("unk__"):
                names[str(dim.value)] = length.dim
        node.outputs[0].shape = ir.Shape(
            [_renamed(dim, names) for dim in node.outputs[0].shape or ()]
        )


def reshaped(node: ir.Node) -> list[Length] | None:
    """The lengths of a Reshape's result, by its target and by how many elements there are."""
    source, result = node.inputs[0], node.outputs[0]
    before = lengths_of(source) if source is not None else None
    after, asked = lengths_of(result), entries(node.inputs[1] if len(node.inputs) > 1 else None)
    if before is None or after is None or asked is None or len(asked) != len(after):
        return None
    for axis, entry in enumerate(asked):
        if isinstance(entry, str):
            after[axis] = Length.of(entry)
        elif entry == 0 and not node.attributes.get_int("allowzero", 0) and axis < len(before):
            after[axis] = before[axis]
    both = solved(before, after)
    return None if both is None else both[1]


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, int | str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value not in names:
        return dim
    known = names[str(dim.value)]
    return known if isinstance(known, int) else ir.SymbolicDim(known)


def rewritable(value: ir.Value | None) -> list[bool]:
    """For each entry of a shape whether ``retarget`` can change it; [] where that is not known."""
    if value is None:
        return []
    if (array := constant_array(value)) is not None:
        return [True] * array.size
    parts = _concat_parts(value)
    if parts is None:
        return []
    return [constant_array(part) is not None for part, length in parts for _ in range(length)]


def _concat_parts(value: ir.Value) -> list[tuple[ir.Value, int]] | None:
    """The operands of the Concat that computes a shape, with their lengths."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.graph is not value.graph:
        return None
    parts = [(part, static_size(part, 0)) for part in node.inputs if part is not None]
    if len(parts) != len(node.inputs) or any(length is None for _, length in parts):
        return None
    return [(part, length or 0) for part, length in parts]


def retarget(node: ir.Node, index: int, sizes: Mapping[int, int]) -> None:
    """Give ``node`` a shape of its own with other numbers at some indices.

    The entries are ``rewritable``; other readers of the shape keep the old one.
    """
    value = node.inputs[index]
    assert value is not None
    array = constant_array(value)
    if array is not None:
        changed = array.astype(np.int64).copy()
        changed[list(sizes)] = list(sizes.values())
        if (changed != array).any():
            replace_input(node, index, changed, "shape")
        return
    parts = _concat_parts(value)
    assert parts is not None
    concat = ir.node("Concat", [part for part, _ in parts], {"axis": 0})
    target = put_before(node, concat, f"shape.{node.name or node.outputs[0].name}", "computed")
    target.shape, target.type = value.shape, value.type
    first = 0
    for position, (part, length) in enumerate(parts):
        here = {at - first: size for at, size in sizes.items() if first <= at < first + length}
        first += length
        if here:
            numbers = np.array(constant_array(part))
            numbers[list(here)] = list(here.values())
            replace_input(concat, position, numbers, "shape")
    node.replace_input_with(index, target)
    old = value.producer()
    if old is not None and not value.uses() and not value.is_graph_output():
        graph_of(old).remove(old, safe=True)
