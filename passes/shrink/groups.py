"""Grouped convolutions whose groups lose different channels.

Each group is cut as a convolution of its own would be. What is left of the groups is put together
again: those with as many input and as many output channels as one another are one grouped
convolution, and there are as many convolutions, side by side between a Split and a Concat, as
there are pairs of widths. A group that lost its outputs is gone; one that lost its inputs alone
holds what its bias says, and reads some channel through zeros. The convolutions need their
channels in an order of their own: ``reorder`` moves it into the weights before and behind, and a
Gather does where that cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Labels, Mask, static_size
from prunedeploy.passes.names import add_initializer, names, replace_value, unused
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Keep
from prunedeploy.passes.operators.selections import set_split
from prunedeploy.passes.shrink.reorder import Copies, reorder


@dataclass(frozen=True)
class Regrouping:
    """A grouped layer about to be cut: its whole weight, and what each group keeps.

    ``rows`` is [out channels, in channels of a group, taps]; ``reads`` and ``writes`` are
    [groups, channels of a group].
    """

    layer: Layer
    rows: Array
    reads: Mask
    writes: Mask

    def classes(self) -> dict[tuple[int, int], list[int]]:
        """The groups that stay, by how many channels they read and write."""
        by_width: dict[tuple[int, int], list[int]] = {}
        reads = self.reads.sum(axis=1).clip(min=1)
        widths = zip(reads.tolist(), self.writes.sum(axis=1).tolist(), strict=True)
        for group, (ins, outs) in enumerate(widths):
            if outs:
                by_width.setdefault((ins, outs), []).append(group)
        return by_width


@dataclass(frozen=True)
class Part:
    """One convolution: its weight, and which channels (of those that are left) it takes and makes.

    ``origin`` names the weight uniquely among all that are cut from the same one.
    """

    weight: Array
    groups: int
    takes: Labels
    makes: Labels
    origin: bytes


def regroupings(layers: Iterable[Layer], keep: Keep) -> list[Regrouping]:
    """The grouped layers that lose channels, and how; to be asked before weights are cut."""
    plans = []
    for layer in layers:
        if not layer.grouped or layer.equal_groups:
            continue
        reads = keep.of(layer.source, layer.source_axis)
        writes = keep.of(layer.result, layer.result_axis)
        if reads is None and writes is None:
            continue
        if reads is None:
            reads = np.ones(static_size(layer.source, layer.source_axis) or 0, bool)
        if writes is None:
            writes = np.ones(static_size(layer.result, layer.result_axis) or 0, bool)
        shape = (layer.groups, -1)
        plans.append(Regrouping(layer, layer.rows(), reads.reshape(shape), writes.reshape(shape)))
    return plans


def regroup(graph: ir.Graph, plans: list[Regrouping]) -> None:
    """Carry out what ``regroupings`` found, once sources, results and biases are cut."""
    copies: Copies = {}
    parted = []
    for each in plans:
        parts = _parts(each)
        if len(parts) == 1:
            _narrow(graph, _as_it_is(each.layer), parts[0], copies)
        else:
            parted.append((each.layer, parts))
    for layer, parts in parted:
        _replace(graph, _as_it_is(layer), parts, copies)


def _as_it_is(layer: Layer) -> Layer:
    """The layer with what its node reads by now: a sum or a Concat may have come before it."""
    source = layer.node.inputs[0]
    assert source is not None
    return replace(layer, source=source)


def _parts(regrouping: Regrouping) -> list[Part]:
    """One convolution a class, groups in their order within it."""
    sources, results = (
        (np.cumsum(mask) - 1).reshape(mask.shape) for mask in (regrouping.reads, regrouping.writes)
    )
    rows = regrouping.rows.reshape(*regrouping.writes.shape, *regrouping.rows.shape[1:])
    every, idle = regrouping.reads.copy(), ~regrouping.reads.any(axis=1)
    if idle.any():  # a weight of zeros for a channel that is there anyway
        every[idle, 0], sources[idle], rows = True, 0, rows.copy()
        rows[idle] = 0
    parts = []
    for (ins, outs), groups in regrouping.classes().items():
        reads, writes = every[groups], regrouping.writes[groups]
        taps = rows.shape[-1]
        weight = rows[groups][writes].reshape(len(groups), outs, -1, taps)
        columns = np.broadcast_to(reads[:, None], weight.shape[:3])
        weight = weight[columns].reshape(len(groups), outs, ins, taps)
        origin = b"|".join((np.array(groups).tobytes(), reads.tobytes(), writes.tobytes()))
        takes, makes = sources[groups][reads], results[groups][writes]
        stored = _as_stored(regrouping.layer, weight)
        parts.append(Part(stored, len(groups), takes, makes, origin))
    return parts


def _as_stored(layer: Layer, weight: Array) -> Array:
    """[groups, outs, ins, taps] as the operator wants it, the kernel's axes restored."""
    kernel = [int(d) for d in list(layer.weight.shape or ())[2:] if isinstance(d, int)]
    groups, outs, ins, _ = weight.shape
    if layer.weight_out == 0:
        return weight.reshape(groups * outs, ins, *kernel)
    return weight.swapaxes(1, 2).reshape(groups * ins, outs, *kernel)


@dataclass(frozen=True)
class _Writer:
    """Adds nodes and weights for a layer, in front of its node; ``taken`` are the names in use.

    ``copies`` are the weights that were made so far, of all layers.
    """

    graph: ir.Graph
    layer: Layer
    copies: Copies
    taken: set[str]

    def convolution(self, part: Part, source: ir.Value, name: str) -> ir.Value:
        """The node of one part, its result [batch, what it makes, ...]."""
        node, bias = self.layer.node, self.layer.bias
        inputs = [source, self.weight(part, unused(f"{name}.weight", self.taken))]
        if bias is not None and bias.const_value is not None:
            rows = bias.const_value.numpy()[part.makes]
            inputs.append(self._constant(f"{name}.bias", rows))
        attributes = dict(node.attributes) | {"group": ir.AttrInt64("group", part.groups)}
        return self.add(node.op_type, inputs, attributes, self.layer.result, len(part.makes))

    def weight(self, part: Part, name: str) -> ir.Value:
        """The part's weight; layers that shared one weight and were cut alike share it again.

        Without a name the layer's own weight is replaced, under its name.
        """
        weight = self.layer.weight
        key = (weight, -1, part.origin)
        if key not in self.copies:
            if name:
                self.copies[key] = add_initializer(self.graph, name, part.weight)
            else:
                weight.const_value = ir.tensor(part.weight, name=weight.name)
                weight.shape = ir.Shape(part.weight.shape)
                self.copies[key] = weight
        return self.copies[key]

    def split(self, sizes: list[int]) -> list[ir.Value]:
        """The source in parts of these sizes."""
        source, name = self.layer.source, unused("split", self.taken)
        node = ir.node("Split", [source], {"axis": 1}, num_outputs=len(sizes), name=name)
        self.graph.insert_before(self.layer.node, node)
        for value, size in zip(node.outputs, sizes, strict=True):
            _describe(value, source, size, unused(f"{source.name}.part", self.taken))
        set_split(node, sizes)
        return list(node.outputs)

    def gather(self, source: ir.Value, indices: Labels) -> ir.Value:
        """Channels of ``source`` in another order, or some of them."""
        index = self._constant(f"{source.name}.indices", indices.astype(np.int64))
        return self.add("Gather", [source, index], {"axis": 1}, source, len(indices))

    def add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        attributes: dict[str, int] | dict[str, ir.Attr],
        like: ir.Value,
        width: int,
    ) -> ir.Value:
        """A new node; its result is as ``like`` with ``width`` channels."""
        name = unused(f"{self.layer.node.name}.{op_type}", self.taken)
        node = ir.node(op_type, inputs, attributes, name=name)
        self.graph.insert_before(self.layer.node, node)
        name = unused(f"{like.name}.{op_type.lower()}", self.taken)
        _describe(node.outputs[0], like, width, name)
        return node.outputs[0]

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self.graph, unused(name, self.taken), array)


def _describe(value: ir.Value, like: ir.Value, width: int, name: str) -> None:
    dims = list(like.shape or ())
    dims[1] = width
    value.shape, value.type, value.name = ir.Shape(dims), like.type, name


def _narrow(graph: ir.Graph, layer: Layer, part: Part, copies: Copies) -> None:
    """All groups that stay are equally wide: the convolution stays one, with fewer groups."""
    write, node = _Writer(graph, layer, copies, names(graph)), layer.node
    node.attributes["group"] = ir.AttrInt64("group", part.groups)
    own = len(layer.weight.uses()) == 1 and not layer.weight.is_graph_output()
    name = "" if own else unused(f"{layer.name}.narrow.weight", write.taken)
    node.replace_input_with(1, write.weight(part, name))
    if not np.array_equal(part.takes, np.arange(static_size(layer.source, layer.source_axis) or 0)):
        node.replace_input_with(0, write.gather(layer.source, part.takes))


def _replace(graph: ir.Graph, layer: Layer, parts: list[Part], copies: Copies) -> None:
    """Split, a convolution a part, Concat, in the place of one node."""
    node, result = layer.node, layer.result
    takes = np.concatenate([part.takes for part in parts])
    makes = np.concatenate([part.makes for part in parts])
    width = static_size(layer.source, layer.source_axis) or 0
    whole = np.array_equal(np.sort(takes), np.arange(width))
    ordered = whole and reorder(graph, layer.source, 1, takes, node, copies)
    silent = reorder(graph, result, 1, makes, node, copies)
    write = _Writer(graph, layer, copies, names(graph))
    if ordered:
        sources = write.split([len(part.takes) for part in parts])
    else:
        sources = [write.gather(layer.source, part.takes) for part in parts]
    results = [
        write.convolution(part, source, f"{layer.name}.part{number}")
        for number, (part, source) in enumerate(zip(parts, sources, strict=True))
    ]
    joined = write.add("Concat", results, {"axis": 1}, result, len(makes))
    if not silent:
        joined = write.gather(joined, np.argsort(makes))
    replace_value(result, joined)
    graph.remove(node, safe=True)
