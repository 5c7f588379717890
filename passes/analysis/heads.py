"""Attention heads: what a Reshape splits into heads and dimensions, followed to where it is joined.

``axes`` gives every index of one axis a label, so that of heads by dimensions either whole heads or
the same dimension of all heads can go. This walk keeps the two together: a *bundle* has all values
in which an element is told by its head and its dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.layout import RESHAPES
from prunedeploy.passes.operators.products import indices
from prunedeploy.passes.operators.reshapes import runs, splits
from prunedeploy.passes.operators.table import layer_of

AxisPair = tuple[int, int]  # the axes of heads and of dimensions
KEEPS_ZEROS = ("Identity", "Neg")  # zeros stay zeros, and elements where they are
SCALING = ("Div", "Mul")
PRODUCTS = ("Einsum", "MatMul")


@dataclass(frozen=True)
class End:
    """A Reshape where a bundle begins or ends, and the axis of its other side that holds both."""

    node: ir.Node
    value: ir.Value
    axis: int


@dataclass
class Bundle:
    """Values that hold the same dimensions of the same heads, and what they come from and go to.

    ``products`` are the nodes that sum over the dimensions.
    """

    heads: int
    dims: int
    axes: dict[ir.Value, AxisPair] = field(default_factory=dict)
    entries: dict[ir.Node, End] = field(default_factory=dict)
    exits: dict[ir.Node, End] = field(default_factory=dict)
    products: set[ir.Node] = field(default_factory=set)


def bundles(graph: ir.Graph) -> Iterator[Bundle]:
    """Every bundle of ``graph`` of which all is known."""
    seen: set[ir.Value] = set()
    for node in graph:
        for _, parts in splits(node) if node.op_type == "Reshape" else []:
            result = node.outputs[0]
            if len(parts) != 2 or result in seen:
                continue
            heads, dims = (static_size(result, axis) or 0 for axis in parts)
            bundle = Bundle(heads, dims)
            if _collect(bundle, result, (parts[0], parts[1])):
                yield bundle
            seen |= bundle.axes.keys()


def _collect(bundle: Bundle, start: ir.Value, pair_axes: AxisPair) -> bool:
    """Fill in the bundle; False where something reads or writes it that is not understood."""
    pending = [(start, pair_axes)]
    while pending:
        value, pair_axes = pending.pop()
        if value in bundle.axes:
            if bundle.axes[value] != pair_axes:
                return False
            continue
        producer = value.producer()
        nodes = [producer, *dict.fromkeys(use.node for use in value.uses())]
        if value.is_graph_output() or any(n is None or n.graph is not value.graph for n in nodes):
            return False
        bundle.axes[value] = pair_axes
        for node in filter(None, nodes):
            further = _through(bundle, node, value, pair_axes)
            if further is None:
                return False
            pending += further
    return True


def _through(
    bundle: Bundle, node: ir.Node, value: ir.Value, pair_axes: AxisPair
) -> list[tuple[ir.Value, AxisPair]] | None:
    """The other values of ``node`` that are in the bundle too; None where it is not understood."""
    source, result = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.domain not in ("", "ai.onnx") or source is None or len(node.outputs) > 1:
        return None
    if node.op_type in RESHAPES:
        return _reshape(bundle, node, value, pair_axes)
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", list(reversed(range(len(source.shape or ())))))
        if value is source:
            return [(result, (order.index(pair_axes[0]), order.index(pair_axes[1])))]
        return [(source, (order[pair_axes[0]], order[pair_axes[1]]))]
    if node.op_type in KEEPS_ZEROS or scaled(node) is not None:
        operand = scaled(node) or source
        return [(result if value is operand else operand, pair_axes)]
    return _product(bundle, node, value, pair_axes)


def scaled(node: ir.Node) -> ir.Value | None:
    """What a node multiplies or divides by one number; None where it does anything else."""
    if node.op_type not in SCALING or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    for operand, number in ((left, right), (right, left)):
        array = constant_array(number)
        alone = (
            array is not None and array.size == 1 and array.ndim <= len(node.outputs[0].shape or ())
        )
        if alone and operand is not None and (operand is left or node.op_type == "Mul"):
            same = operand.shape is not None and operand.shape == node.outputs[0].shape
            return operand if same else None
    return None


def _reshape(
    bundle: Bundle, node: ir.Node, value: ir.Value, pair_axes: AxisPair
) -> list[tuple[ir.Value, AxisPair]] | None:
    """Heads and dimensions that pass, each alone, or are joined: there the bundle ends."""
    source, result = node.inputs[0], node.outputs[0]
    pairs = runs(node)
    if source is None or pairs is None or node.inputs[1:] == (value,):
        return None
    here, other = (0, 1) if value is source else (1, 0)
    beyond = result if value is source else source
    wide = [
        tuple(
            [a for a in side if static_size(v, a) != 1]
            for side, v in zip(pair, (source, result), strict=True)
        )
        for pair in pairs
    ]
    matched = []
    for axis in pair_axes:
        mine = [pair for pair in wide if axis in pair[here]]
        if len(mine) != 1 or len(mine[0][other]) != 1:
            return None
        matched.append(mine[0])
    if matched[0] is matched[1]:
        if matched[0][here] != list(pair_axes):
            return None
        end = End(node, beyond, matched[0][other][0])
        (bundle.exits if value is source else bundle.entries)[node] = end
        return []
    if any(pair[here] != [axis] for pair, axis in zip(matched, pair_axes, strict=True)):
        return None
    return [(beyond, (matched[0][other][0], matched[1][other][0]))]


def _product(
    bundle: Bundle, node: ir.Node, value: ir.Value, pair_axes: AxisPair
) -> list[tuple[ir.Value, AxisPair]] | None:
    """Both operands where the dimensions are summed over, else operand and result."""
    values, result = list(node.inputs), node.outputs[0]
    if node.op_type not in PRODUCTS or layer_of(node) is not None:
        return None
    subscripts = indices(node)
    if subscripts is None or len(values) != 2 or values[0] is values[1]:
        return None
    (left, right), after = subscripts
    spelt = {values[0]: left, values[1]: right, result: after}
    head, dim = (spelt[value][axis] for axis in pair_axes)
    with_dim = [(v, letters) for v, letters in spelt.items() if dim in letters]
    if len(with_dim) != 2 or head not in after:
        return None
    if dim not in after:
        bundle.products.add(node)
    axes = [(v, (letters.find(head), letters.index(dim))) for v, letters in with_dim]
    sizes = {
        tuple(static_size(v, axis) if axis >= 0 else None for axis in at) for v, at in axes if v
    }
    if sizes != {(bundle.heads, bundle.dims)}:
        return None
    return [(v, at) for v, at in axes if v is not None and v is not value]
