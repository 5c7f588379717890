"""One layer as several, side by side: the nodes of both forms of repacking.

- *channels*: each part is the operator itself on the input channels that the part reads, without
  the rows and columns of the kernel that vanish for all of it;
- *columns*: the shifted copies of the input under each tap side by side (im2col, written with Pad,
  Slice and Concat), and each part a 1x1 convolution of those that it reads.

Convolutions read a multiple of channels that the target's engines like, the last one over again
with weights of zero where blocks are narrower: other counts are left out of ONNX Runtime's blocked
kernels (of 16 and more channels it takes multiples of 4), whose short sums are also nearer to the
exact ones.

The results are concatenated. Their order goes into the layers behind where these allow (see
``shrink/reorder.py``), otherwise a Gather puts the channels back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import static_size
from prunedeploy.passes.blocks.blocks import Ints
from prunedeploy.passes.blocks.parts import Part
from prunedeploy.passes.names import add_initializer, names, replace_value, unused
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.shrink.reorder import reorder

REPACKED = "prunedeploy.repacked"  # metadata of the nodes, which are not looked at again
Attributes = dict[str, ir.Attr]


@dataclass
class Writer:
    """Adds nodes and initializers in front of a layer's node."""

    graph: ir.Graph
    layer: Layer
    multiple: int

    def __post_init__(self) -> None:
        self.taken = names(self.graph)

    def constant(self, array: Array, name: str) -> ir.Value:
        """A new initializer."""
        return add_initializer(self.graph, unused(name, self.taken), array)

    def add(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        attributes: Attributes | None = None,
        like: ir.Value | None = None,
        sizes: dict[int, int] | None = None,
    ) -> ir.Value:
        """A new node; its result is as ``like``, with other sizes on some axes."""
        name = unused(f"{self.layer.name}.{kind.lower()}", self.taken)
        node = ir.node(kind, list(inputs), attributes or {}, name=name)
        node.metadata_props[REPACKED] = "1"
        self.graph.insert_before(self.layer.node, node)
        result, like = node.outputs[0], like or inputs[0]
        dims = list(like.shape or ())
        for axis, size in (sizes or {}).items():
            dims[axis] = size
        result.name = unused(f"{name}.0", self.taken)
        result.shape, result.type = ir.Shape(dims), like.type
        return result

    def padded(self, channels: Ints) -> Ints:
        """Return as many as a convolution likes, the last one repeated."""
        if not channels.size:
            return channels
        count = padded_size(self.layer, channels.size, self.multiple)
        return np.pad(channels, (0, count - channels.size), mode="edge")

    def select(self, value: ir.Value, axis: int, indices: Ints) -> ir.Value:
        """Indices of an axis; the value itself where all are taken in order."""
        if np.array_equal(indices, np.arange(static_size(value, axis) or 0)):
            return value
        index = self.constant(indices.astype(np.int64), f"{self.layer.name}.indices")
        chosen = {"axis": ir.AttrInt64("axis", axis)}
        return self.add("Gather", [value, index], chosen, sizes={axis: len(indices)})


def padded_size(layer: Layer, channels: int, multiple: int) -> int:
    """How many channels a part reads that needs ``channels``."""
    return -(-channels // multiple) * multiple if layer.node.op_type == "Conv" else channels


def rewrite(graph: ir.Graph, layer: Layer, parts: list[Part], form: str, multiple: int = 1) -> bool:
    """``layer`` as ``parts``; whether the order of the result went into other layers' weights.

    Convolutions read a ``multiple`` of channels.
    """
    writer = Writer(graph, layer, multiple)
    order = np.concatenate([part.rows for part in parts])
    silent = reorder(graph, layer.result, layer.result_axis, order, layer.node, {})
    writer.taken = names(graph)  # those of reordered weights, too
    if form == "columns":
        sources = _im2col(writer, parts)
        results = [_product(writer, p, x) for p, x in zip(parts, sources, strict=True)]
    else:
        results = [_narrow(writer, part) for part in parts]
    joined = results[0]
    if len(results) > 1:
        axis = {"axis": ir.AttrInt64("axis", layer.result_axis)}
        joined = writer.add("Concat", results, axis, like=layer.result)
    if not silent:
        joined = writer.select(joined, layer.result_axis, np.argsort(order))
    replace_value(layer.result, joined)
    graph.remove(layer.node, safe=True)
    return silent


def window(layer: Layer, part: Part) -> tuple[slice, slice, list[int]] | None:
    """Rows and columns of the kernel that a part needs, and its pads then; None for no window.

    The border shrinks with the kernel, so only as much of the kernel goes as there is border.
    """
    if not layer.spatial or layer.node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    shape = [int(size) for size in layer.weight.const_value.shape[2:]]  # type: ignore[union-attr, arg-type]
    if len(shape) != 2:
        return None
    pads = list(layer.node.attributes.get_ints("pads", [0] * 4))
    dilations = list(layer.node.attributes.get_ints("dilations", [1, 1]))
    coordinates = np.unravel_index(part.taps(shape[0] * shape[1]), shape)
    cuts = []
    for axis in (0, 1):
        begin, end = int(coordinates[axis].min()), shape[axis] - 1 - int(coordinates[axis].max())
        begin = min(begin, pads[axis] // dilations[axis])
        end = min(end, pads[axis + 2] // dilations[axis])
        pads[axis] -= begin * dilations[axis]
        pads[axis + 2] -= end * dilations[axis]
        cuts.append(slice(begin, shape[axis] - end))
    return cuts[0], cuts[1], pads


def _narrow(writer: Writer, part: Part) -> ir.Value:
    """The operator on the channels that a part reads."""
    layer = writer.layer
    tensor = layer.weight.const_value
    assert tensor is not None
    rows = layer.rows()
    own = part.channels(rows.shape[2])
    channels = writer.padded(own)
    if channels.size >= rows.shape[1]:  # then all as they are, without a Gather
        own = channels = np.arange(rows.shape[1])
    weight = np.take(tensor.numpy(), part.rows, axis=layer.weight_out)
    weight = np.take(weight, own, axis=layer.weight_in)
    weight = _with_zeros(weight, layer.weight_in, channels.size)
    attributes = dict(layer.node.attributes)
    cut = window(layer, part)
    if cut is not None:
        weight = weight[:, :, cut[0], cut[1]]
        attributes["pads"] = ir.AttrInt64s("pads", cut[2])
        attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", weight.shape[2:])
    source = writer.select(layer.source, layer.source_axis, channels)
    return _layer(writer, part, layer.node.op_type, source, weight, attributes)


def _with_zeros(weight: Array, axis: int, count: int) -> Array:
    """``count`` channels on an axis: zeros for those that are read a second time."""
    added = [(0, 0)] * weight.ndim
    added[axis] = (0, count - weight.shape[axis])
    return np.pad(weight, added)


def _layer(
    writer: Writer, part: Part, kind: str, source: ir.Value, weight: Array, attributes: Attributes
) -> ir.Value:
    layer = writer.layer
    inputs = [source, writer.constant(weight, f"{layer.name}.part.weight")]
    bias = layer.bias
    if bias is not None:
        assert bias.const_value is not None
        array = bias.const_value.numpy()
        inputs.append(
            writer.constant(
                array if array.size == 1 else np.take(array, part.rows, axis=-1),
                f"{layer.name}.part.bias",
            )
        )
    sizes = {layer.result_axis: len(part.rows)}
    return writer.add(kind, inputs, attributes, layer.result, sizes)


def _im2col(writer: Writer, parts: list[Part]) -> list[ir.Value]:
    """The columns that each part reads, as channels of maps of the result's size."""
    layer = writer.layer
    attributes = layer.node.attributes
    height, width = (int(size) for size in layer.weight.const_value.shape[2:])  # type: ignore[union-attr, arg-type]
    pads = list(attributes.get_ints("pads", [0] * 4))
    strides = list(attributes.get_ints("strides", [1, 1]))
    dilations = list(attributes.get_ints("dilations", [1, 1]))
    extent = [static_size(layer.source, axis) or 0 for axis in (1, 2, 3)]
    source = layer.source
    if any(pads):
        given = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
        padded = {2: extent[1] + pads[0] + pads[2], 3: extent[2] + pads[1] + pads[3]}
        border = writer.constant(given, f"{layer.name}.pads")
        source = writer.add("Pad", [source, border], sizes=padded)
    sizes = [static_size(layer.result, axis) or 0 for axis in (2, 3)]
    used = np.unique(np.concatenate([part.taps(height * width) for part in parts]))
    copies = []
    for tap in used:
        begin = [int(tap) // width * dilations[0], int(tap) % width * dilations[1]]
        end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, sizes, strides, strict=True)]
        bounds = [begin, end, [2, 3], strides]
        inputs = [
            writer.constant(np.array(bound, np.int64), f"{layer.name}.{what}")
            for bound, what in zip(bounds, ("starts", "ends", "axes", "steps"), strict=True)
        ]
        shape = {2: sizes[0], 3: sizes[1]}
        copies.append(writer.add("Slice", [source, *inputs], sizes=shape))
    axis = {"axis": ir.AttrInt64("axis", 1)}
    whole = writer.add("Concat", copies, axis, sizes={1: len(used) * extent[0]})
    tap_index = np.searchsorted(used, np.arange(height * width))
    taps = height * width
    return [
        writer.select(whole, 1, tap_index[columns % taps] * extent[0] + columns // taps)
        for columns in (writer.padded(part.columns) for part in parts)
    ]


def _product(writer: Writer, part: Part, source: ir.Value) -> ir.Value:
    rows = writer.layer.rows().reshape(len(writer.layer.rows()), -1)
    weight = rows[np.ix_(part.rows, part.columns)][:, :, None, None]
    weight = _with_zeros(weight, 1, writer.padded(part.columns).size)
    return _layer(writer, part, "Conv", source, weight, {})
