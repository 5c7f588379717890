"""Attention heads that lose different dimensions: as many go from each, so that one size is left.

A dimension of a head can go where nothing needs it: a product that sums over it has zero there in
one of its operands, and the layer behind has a column of zeros for it, or takes its constant over.
That is asked for every dimension of every head by itself. What goes is then left out where the
heads begin, by a Gather in front of the Reshape that splits them, and from the columns of the
layers where they are joined again. What only the Gather left out is dead to the next analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants, constant_array
from prunedeploy.passes.analysis.heads import PRODUCTS, Bundle, End, bundles, scaled
from prunedeploy.passes.analysis.layout import RESHAPES
from prunedeploy.passes.analysis.shape_targets import entries, rewritable
from prunedeploy.passes.names import naming, put_before, replace_input
from prunedeploy.passes.operators.layers import Layer, bias_rows, contribution
from prunedeploy.passes.operators.operator import Keep
from prunedeploy.passes.operators.products import adds_up_to_one
from prunedeploy.passes.operators.reshapes import can_shrink, edit_reshape, runs
from prunedeploy.passes.shrink.edit import set_bias, update_shapes
from prunedeploy.passes.shrink.plan import Plan


def even_out(graph: ir.Graph, plan: Plan, align: int = 1) -> bool:
    """Leave out what can go from all heads, in place; ``plan`` is one that cuts nothing.

    ``align`` is the multiple that heads times dimensions are to be.

    Returns:
        Whether anything was changed.
    """
    cuts = [cut for bundle in bundles(graph) if (cut := _cut(bundle, plan, align)) is not None]
    with naming(graph):
        for cut in cuts:
            cut.carry_out()
    return bool(cuts)


@dataclass(frozen=True)
class Exit:
    """A layer that reads heads joined, by way of values that hold them along one axis each."""

    layer: Layer
    constants: Constants
    passed: tuple[tuple[ir.Value, int], ...]


@dataclass(frozen=True)
class Cut:
    """Which dimensions of each head stay, [heads, dims]: as many in each.

    Where ``silent`` says of whole heads that they can go, for one reason here and another there,
    the layers behind stop to read these first: that is a reason that the analyses know.
    """

    bundle: Bundle
    stays: Mask
    exits: tuple[Exit, ...]
    silent: bool = False

    def carry_out(self) -> None:
        """Edit the graph in place."""
        if self.silent:
            for each in self.exits:
                _silence(each, self.stays.reshape(-1))
            return
        flat, left = self.stays.reshape(-1), self.stays.sum(axis=1)[0]
        masks = {
            (value, dims): np.arange(self.bundle.dims) < left
            for value, (_, dims) in self.bundle.axes.items()
        }
        masks |= {at: flat for each in self.exits for at in each.passed}
        keep = Keep(masks)
        for node in dict.fromkeys(value.producer() for value, _ in masks):
            if node is not None:
                edit_reshape(node, keep)
        for entry in self.bundle.entries.values():
            _leave_out(entry, flat)
        update_shapes(keep)
        for each in self.exits:
            _narrow(each, flat)


def _leave_out(entry: End, stays: Mask) -> None:
    """Gather what stays, in the Gather that is there already if there is one."""
    producer, kept = entry.value.producer(), np.flatnonzero(stays)
    taken = _listed(producer, entry.axis) if len(entry.value.uses()) == 1 else None
    if producer is not None and taken is not None:
        replace_input(producer, 1, taken[kept], "indices")
        update_shapes(Keep({(entry.value, entry.axis): stays}))
        return
    gather = ir.node("Gather", [entry.value], {"axis": entry.axis})
    result = put_before(entry.node, gather, f"{entry.node.name or 'heads'}.gather", "taken")
    replace_input(gather, 1, kept, "indices")
    result.type, result.shape = entry.value.type, entry.value.shape
    update_shapes(Keep({(result, entry.axis): stays}))
    entry.node.replace_input_with(0, result)


def _listed(
    node: ir.Node | None, axis: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """The indices of a Gather along ``axis``."""
    if node is None or node.op_type != "Gather" or node.domain not in ("", "ai.onnx"):
        return None
    if node.outputs[0].is_graph_output():
        return None
    given, width = constant_array(node.inputs[1]), rank(node.inputs[0]) if node.inputs[0] else None
    along = given is not None and given.ndim == 1 and width
    if not along or node.attributes.get_int("axis", 0) % (width or 1) != axis:
        return None
    return np.asarray(given, np.int64)


def drop_gathers(graph: ir.Graph) -> None:
    """Remove, in place, every Gather that takes a whole axis in its order: the others were cut."""
    for node in list(graph):
        source, axis = node.inputs[0] if node.inputs else None, node.attributes.get_int("axis", 0)
        taken = _listed(node, axis % (rank(source) or 1)) if source is not None else None
        size = static_size(source, axis) if source is not None else None
        if source is None or taken is None or size is None:
            continue
        if np.array_equal(taken, np.arange(size)):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _narrow(each: Exit, stays: Mask) -> None:
    """The columns that stay; constants of the others go into the bias."""
    _absorb(each, stays)
    _set_weight(each.layer, lambda array, axis: np.compress(stays, array, axis=axis))


def _silence(each: Exit, stays: Mask) -> None:
    """Zeros in the columns that do not stay; constants there go into the bias."""
    _absorb(each, stays)
    shape = np.ones(rank(each.layer.weight) or 2, int)
    shape[each.layer.weight_in] = len(stays)
    _set_weight(each.layer, lambda array, _: np.where(stays.reshape(shape), array, 0))


def _absorb(each: Exit, stays: Mask) -> None:
    layer, going = each.layer, np.where(stays, 0.0, np.nan_to_num(each.constants))
    if going.any():
        assert layer.weight.dtype is not None
        bias = bias_rows(layer) + contribution(layer, going)
        set_bias(layer, bias.astype(layer.weight.dtype.numpy()))


def _set_weight(layer: Layer, edit: Callable[[Array, int], Array]) -> None:
    weight = layer.weight
    assert weight.const_value is not None
    array = edit(weight.const_value.numpy(), layer.weight_in)
    weight.const_value = ir.tensor(array, dtype=weight.const_value.dtype, name=weight.name)
    weight.shape = ir.Shape(array.shape)


def _cut(bundle: Bundle, plan: Plan, align: int) -> Cut | None:
    """What can go from every head alike in number; None where that is nothing."""
    exits = _exits(bundle, plan)
    if exits is None or not all(map(_is_flexible, _reshapes(bundle, exits))):
        return None
    dead = np.ones(bundle.heads * bundle.dims, bool)
    for node in bundle.products:
        known = [_constants(bundle, value, plan) for value in node.inputs if value is not None]
        dead &= np.any([np.asarray(each) == 0 for each in known], axis=0)
    for each in exits:
        dead &= ~_needed(each, plan)
    for entry in bundle.entries.values():
        dead &= ~np.isin(plan.axes.roots(entry.value, entry.axis), list(plan.aligned))
    by_head = dead.reshape(bundle.heads, bundle.dims)
    whole = by_head.all(axis=1).repeat(bundle.dims)
    if not whole.all() and any(plan.weights.used(each.layer)[:, whole].any() for each in exits):
        return Cut(bundle, ~whole, tuple(exits), silent=True)
    left = max(1, int((~by_head).sum(axis=1).max()))
    while bundle.heads * left % align and left < bundle.dims:
        left += 1
    if left == bundle.dims:
        return None
    # those that are needed, and the first others
    order = np.argsort(by_head, axis=1, kind="stable")[:, :left]
    stays = np.zeros(by_head.shape, bool)
    np.put_along_axis(stays, order, True, axis=1)
    return Cut(bundle, stays, tuple(exits))


def _needed(each: Exit, plan: Plan) -> Mask:
    """Which columns of the layer meet what it cannot take over."""
    layer = each.layer
    rows = plan.kept.live[plan.axes.roots(layer.result, layer.result_axis)]
    bias = layer.uniform and layer.takes_bias
    varies = np.isnan(each.constants) if bias else ~(each.constants == 0)
    return np.asarray(plan.weights.needed(layer, rows) & varies)


def _exits(bundle: Bundle, plan: Plan) -> list[Exit] | None:
    """All layers that read what is joined; None where anything else does."""
    layers = {layer.node: layer for layer in plan.layers}
    exits = []
    for end in bundle.exits.values():
        assert end.node.inputs[0] is not None
        constants = _constants(bundle, end.node.inputs[0], plan)
        for layer, passed in _readers(end.value, end.axis, layers):
            if layer is None:
                return None
            exits.append(Exit(layer, constants, passed))
    own = len({each.layer.weight for each in exits}) == len(exits)
    return exits if own else None


def _readers(
    value: ir.Value,
    axis: int,
    layers: dict[ir.Node, Layer],
    passed: tuple[tuple[ir.Value, int], ...] = (),
) -> Iterator[tuple[Layer | None, tuple[tuple[ir.Value, int], ...]]]:
    """The layers behind a value, and on which axes of which values they are reached by.

    None for a layer that cannot be cut, and for whatever is no layer.
    """
    passed = (*passed, (value, axis))
    if value.is_graph_output():
        yield None, passed
    for use in value.uses():
        layer, after = layers.get(use.node), _passes(use.node, value, axis)
        if layer is not None:
            yield layer if _is_narrowable(layer, value, axis) else None, passed
        elif after is None:
            yield None, passed
        else:
            yield from _readers(use.node.outputs[0], after, layers, passed)


def _is_narrowable(layer: Layer, value: ir.Value, axis: int) -> bool:
    weight = layer.weight
    own = (
        len(weight.uses()) == 1 and weight.const_value is not None and not weight.is_graph_output()
    )
    return own and layer.groups == 1 and layer.source is value and layer.source_axis == axis


def _passes(node: ir.Node, value: ir.Value, axis: int) -> int | None:
    """Where the axis is in the result of a node that only moves it."""
    if node.domain not in ("", "ai.onnx") or node.inputs[0] is not value:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", list(reversed(range(rank(value) or 0))))
        return list(order).index(axis)
    if node.op_type not in RESHAPES:
        return axis if node.op_type == "Identity" else None
    for left, right in runs(node) or []:
        wide = [at for at in right if static_size(node.outputs[0], at) != 1]
        if axis in left and [at for at in left if static_size(value, at) != 1] == [axis]:
            return wide[0] if len(wide) == 1 else None
    return None


def _reshapes(bundle: Bundle, exits: list[Exit]) -> Iterator[tuple[ir.Value, int]]:
    """The axes that are to be shorter, of results of Reshapes."""
    yield from ((value, dims) for value, (_, dims) in bundle.axes.items())
    yield from (at for each in exits for at in each.passed)


def _is_flexible(at: tuple[ir.Value, int]) -> bool:
    """Whether the target shape of the Reshape that a value is of can name another length."""
    node, axis = at[0].producer(), at[1]
    if node is None or node.op_type not in RESHAPES:
        return True
    if not can_shrink(node):
        return False
    if node.op_type != "Reshape":
        return True
    asked = entries(node.inputs[1])
    return asked is not None and (asked[axis] == -1 or rewritable(node.inputs[1])[axis])


def _constants(bundle: Bundle, value: ir.Value, plan: Plan) -> Constants:
    """What [heads * dims] each hold for every input; NaN where it varies."""
    node = value.producer()
    assert node is not None
    if node in bundle.entries:
        end = bundle.entries[node]
        return plan.facts.along(end.value, end.axis)
    carried = next(v for v in node.inputs if v is not None and v in bundle.axes)
    before = _constants(bundle, carried, plan)
    if node.op_type in PRODUCTS:
        steady = adds_up_to_one(node) and carried is node.inputs[1]
        return before if steady else np.where(before == 0, 0.0, np.nan)
    if node.op_type == "Neg":
        return -before
    if scaled(node) is None:
        return before
    (number,) = (constant_array(v) for v in node.inputs if v is not carried)
    factor = float(np.asarray(number).item())
    with np.errstate(all="ignore"):
        after = before * factor if node.op_type == "Mul" else before / factor
    return np.where(np.isfinite(after), after, np.nan)
