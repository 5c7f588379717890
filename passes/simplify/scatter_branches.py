"""A residual branch whose last layer has many constant rows, computed narrow and spread out again.

Channels that are constant in one branch of an Add and live in the other cannot be cut. But the
layer that ends the branch need not compute them all: its live rows and one constant one are
enough, and a Gather puts them where they belong, the constant one many times. Where the constants
differ, an initializer added per channel makes them up.

That saves multiplications and moves more bytes, so it is done only where the target's figures say
that it pays:

    saved   = macs of the rows left out / macs a second
    moved   = (8 * channels + 3 * rows computed) * positions * bytes of a number / bytes a second

A Gather reads what was computed and writes all channels. The rest of the 8 and 3 is what a runtime
no longer fuses: the Add, the activation and the changes of layout around them, counted on ONNX
Runtime's CPU kernels; ``benchmarks/scatter.py`` measures it. The form with a constant row needs no
Pad or Concat and was as fast as either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array, Note, PassResult
from prunedeploy.graph import input_range, shapes
from prunedeploy.graph import model as models
from prunedeploy.passes.analysis.axes import Mask, positions
from prunedeploy.passes.analysis.facts import Constants
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.analysis.settings import Settings
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.names import replace_input, unique_name
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.simplify.remove_dead_branches import known_constants
from prunedeploy.targets import Target, by_name

WIDE, NARROW = 8, 3  # how often all channels, and those computed, are read or written more
ADDEND = 2  # and all channels once more each way, where constants differ
NODE = 5e-6  # seconds that one more node takes whatever its size
MARGIN = 1.5  # what is saved, over what is spent: figures of machines are rough


@dataclass(frozen=True)
class Cost:
    """Seconds for one batch: of multiplications left out, and of bytes moved for it."""

    left_out: float
    moved: float

    @property
    def saved(self) -> float:
        """The gain, negative where it is a loss."""
        return self.left_out - self.moved

    @property
    def pays(self) -> bool:
        """With a margin."""
        return self.left_out > MARGIN * self.moved


@dataclass(frozen=True)
class ScatterBranches:
    """Compute branches of sums narrow where ``target``'s cost model says that it is faster.

    Taken: the layer's result has one reader, the Add; its weights are its own and not grouped; all
    sizes but the batch are known (a dynamic batch counts as one). Targets without figures: never.
    """

    target: str = "host"
    zero_threshold: float = 0.0
    name: ClassVar[str] = "scatter-branches"

    @property
    def exact(self) -> bool:
        """Only our own bound on zero is proved not to matter."""
        return self.zero_threshold == 0.0

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        shapes.infer_shapes(model)
        target = by_name(self.target)
        settings = Settings(Zero(self.zero_threshold), input_range.of(model))
        facts = known_constants(model.graph, settings)
        notes = []
        for layer in layers_of(model.graph):
            known = facts.of(layer.result, layer.result_axis)
            if known is None or not _ends_branch(layer):
                continue
            known = np.where(np.isfinite(known), known, np.nan)
            dead = ~np.isnan(known)
            if dead.sum() > 1 and not dead.all():
                notes.append(_decide(model.graph, layer, known, target))
        models.drop_unused(model.graph)
        return PassResult(any(note.status == "taken" for note in notes), tuple(notes))


def cost(
    target: Target,
    macs: int,
    width: int,
    rows: int,
    positions: int,
    itemsize: int,
    addend: bool = False,
) -> Cost | None:
    """Return the cost of ``rows`` instead of ``width`` channels; None without figures.

    ``macs`` are those of one number of the result, ``positions`` its numbers in one channel.
    """
    if not target.macs_per_second or not target.bytes_per_second:
        return None
    numbers = (WIDE + ADDEND * addend) * width + NARROW * rows
    moved = numbers * positions * itemsize / target.bytes_per_second
    left_out = (width - rows) * macs * positions / target.macs_per_second
    return Cost(left_out, moved + NODE * (1 + addend))


def _ends_branch(layer: Layer) -> bool:
    """Whether the result goes into one Add and nowhere else, and the weights are free to change."""
    uses = list(layer.result.uses())
    if len(uses) != 1 or layer.result.is_graph_output() or layer.groups > 1:
        return False
    reader, weight = uses[0].node, layer.weight
    others = [v for i, v in enumerate(reader.inputs) if i != uses[0].idx]
    shared = len(weight.uses()) > 1 or weight.is_graph_output()
    return (
        reader.op_type == "Add"
        and reader.graph is layer.node.graph
        and layer.node.op_type in ("Conv", "Gemm", "MatMul")
        and not shared
        and weight.const_value is not None  # not stored as integers
        and all(v is not None and v.const_value is None for v in others)
    )


def _decide(graph: ir.Graph, layer: Layer, known: Constants, target: Target) -> Note:
    dead = ~np.isnan(known)
    count, width = int(dead.sum()), len(known)
    numbers = positions(layer.result, layer.result_axis)
    if numbers is None:
        reason = "scattered or not: the size of the map is open"
        return Note("open-shape", layer.name, "refused", reason, count)
    assert layer.weight.const_value is not None
    assert layer.weight.dtype is not None
    differ = len(np.unique(known[dead])) > 1
    macs, itemsize = layer.weight.const_value.size // width, layer.weight.dtype.itemsize
    rows = width - count + 1
    costs = cost(target, macs, width, rows, numbers, int(itemsize), differ)
    if costs is None:
        reason = f"constant rows of a branch: no cost figures for {target.name}"
        return Note("no-cost-figures", layer.name, "refused", reason, count)
    figures = f"{costs.left_out * 1e6:.0f} us less to compute, {costs.moved * 1e6:.0f} us to move"
    if not costs.pays:
        reason = f"constant rows of a branch, slower if scattered on {target.name}: {figures}"
        return Note("slower-on-target", layer.name, "refused", reason, count)
    _scatter(graph, layer, known, differ)
    reason = f"branch computed narrow and scattered, predicted for {target.name}: {figures}"
    seconds = {"left_out_seconds": costs.left_out, "moved_seconds": costs.moved}
    return Note("branch-scattered", layer.name, "taken", reason, count - 1, figures=seconds)


def _scatter(graph: ir.Graph, layer: Layer, known: Constants, differ: bool) -> None:
    """The layer with its live rows and the first constant one, a Gather, and what differs."""
    dead, first = ~np.isnan(known), int(np.flatnonzero(~np.isnan(known))[0])
    stays = ~dead
    stays[first] = True
    order = (np.cumsum(stays) - 1)[np.where(dead, first, np.arange(len(known)))]
    reader = next(iter(layer.result.uses())).node
    _narrow(layer, stays)
    gather = ir.node("Gather", [layer.result], {"axis": layer.result_axis})
    _behind(graph, layer.node, gather, layer, f"{layer.weight.name}.scattered")
    replace_input(gather, 1, order.astype(np.int64), f"{layer.weight.name}.order")
    last = gather.outputs[0]
    if differ:
        add = ir.node("Add", [last])
        _behind(graph, gather, add, layer, f"{layer.weight.name}.constants")
        assert layer.result.dtype is not None
        assert layer.result.shape is not None
        shape = [1] * len(layer.result.shape)
        shape[layer.result_axis] = len(known)
        rest: Array = np.where(dead, known - known[first], 0.0).reshape(shape)
        rest = rest.astype(layer.result.dtype.numpy())
        replace_input(add, 1, rest, f"{layer.weight.name}.constants")
        last = add.outputs[0]
    for index, value in enumerate(reader.inputs):
        if value is layer.result:
            reader.replace_input_with(index, last)
    dims = list(layer.result.shape or ())
    dims[layer.result_axis] = int(stays.sum())
    layer.result.shape = ir.Shape(dims)


def _narrow(layer: Layer, stays: Mask) -> None:
    """Slice the weight and the bias to the rows that stay."""
    tensor, bias = layer.weight.const_value, layer.bias
    assert tensor is not None
    array = np.compress(stays, tensor.numpy(), axis=layer.weight_out)
    layer.weight.const_value = ir.tensor(array, dtype=tensor.dtype, name=layer.weight.name)
    layer.weight.shape = ir.Shape(array.shape)
    if bias is not None and bias.const_value is not None and bias.const_value.size > 1:
        rows = np.compress(stays, bias.const_value.numpy(), axis=-1)
        assert layer.bias_input is not None
        replace_input(layer.node, layer.bias_input, rows, f"{layer.weight.name}.bias")


def _behind(graph: ir.Graph, node: ir.Node, new: ir.Node, layer: Layer, name: str) -> None:
    """``new`` named and put behind ``node``; its result is as the layer's was."""
    new.name = unique_name(graph, name)
    result = new.outputs[0]
    result.name = unique_name(graph, f"{name}.0")
    result.shape, result.type = layer.result.shape, layer.result.type
    graph.insert_after(node, new)
