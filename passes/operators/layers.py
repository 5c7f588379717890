"""The operators with weights, all seen as one thing: rows that are sums over input channels.

A convolution, a transposed convolution, a Gemm and a MatMul differ in where the channel axes
lie, in padding and in groups. ``Layer`` says where; everything else is written once for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from prunedeploy.core.records import Array
from prunedeploy.graph.model import release
from prunedeploy.passes.analysis.axes import Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Constants
from prunedeploy.passes.analysis.quantised_weights import dequantised
from prunedeploy.passes.analysis.zero import Zero

CHUNK = 1 << 24  # elements looked at in one go, so that temporaries stay small


@dataclass(frozen=True)
class Layer:
    """result[.., m, ..] = bias[m] + sum over k and taps of weight[m, k, tap] * source[.., k, ..].

    ``uniform`` says that a constant input channel adds the same to every position of a row: it
    does not where padding brings zeros in at the borders.
    """

    node: ir.Node
    source: ir.Value
    source_axis: int
    weight: ir.Value
    weight_in: int
    weight_out: int
    result: ir.Value
    result_axis: int
    bias_input: int | None  # index among the node's inputs; None: the operator has no bias
    groups: int = 1
    uniform: bool = True
    scale: float = 1.0  # of the products (Gemm's alpha)
    spatial: bool = False  # the other axes are swept by a window
    takes_bias: bool = True  # constants may go into the bias
    takes_map: bool = True  # constants under padding may be added to the result as a map
    equal_groups: bool = False  # all groups lose the same channels
    apart: bool = False  # groups of one channel are cut apart too, as wider ones are

    @property
    def name(self) -> str:
        """The parameter the weight came from, as the user knows it."""
        stored = self.weight
        if stored.const_value is None and (scaling := stored.producer()) is not None:
            stored = scaling.inputs[0] or stored
        return str(stored.name).removesuffix(".weight")

    @property
    def bias(self) -> ir.Value | None:
        """The bias, where there is one."""
        if self.bias_input is None or self.bias_input >= len(self.node.inputs):
            return None
        return self.node.inputs[self.bias_input]

    @property
    def mappable(self) -> bool:
        """Whether a constant's contribution to each position has a table (analysis/borders.py)."""
        if not self.spatial or (self.node.op_type == "ConvTranspose" and _derives_pads(self.node)):
            return False
        axes = range(2, len(self.result.shape or ()))
        values = (self.source, self.result)
        steady = all(static_size(value, axis) is not None for value in values for axis in axes)
        return self.takes_map and steady

    @property
    def depthwise(self) -> bool:
        """Whether every group reads one channel and writes one, and the two are cut together."""
        widths = (
            static_size(self.source, self.source_axis),
            static_size(self.result, self.result_axis),
        )
        return self.groups > 1 and not self.apart and widths == (self.groups, self.groups)

    @property
    def grouped(self) -> bool:
        """Whether there are groups of any other widths: they are cut apart (shrink/groups.py)."""
        return self.groups > 1 and not self.depthwise

    def rows(self) -> Array:
        """The weight as [out channels, in channels of a group, taps]; a view where possible."""
        array = weight_array(self.weight)
        assert array is not None
        if self.weight_out == 0 or self.groups == 1:
            array = np.moveaxis(array, (self.weight_out, self.weight_in), (0, 1))
            return array.reshape(*array.shape[:2], -1)
        # transposed, [in channels, out channels of a group, taps]: the groups lie along the former
        groups, outs = self.groups, array.shape[1]
        split = array.reshape(groups, array.shape[0] // groups, outs, -1).swapaxes(1, 2)
        return split.reshape(groups * outs, *split.shape[2:])

    def group_of(self, array: Array, group: int) -> Array:
        """One group's part of the weight, as a view [out channels, in channels, ...]."""
        if self.groups > 1:  # they lie along the first axis, transposed or not
            size = len(array) // self.groups
            array = array[group * size : (group + 1) * size]
        return np.moveaxis(array, (self.weight_out, self.weight_in), (0, 1))


def weight_array(value: ir.Value) -> Array | None:
    """Return an initializer's array, or the one dequantised from integers."""
    return dequantised(value) if value.const_value is None else value.const_value.numpy()


def readable(layer: Layer) -> bool:
    """Weights known, some at all, and channel axes of fixed length: there is something to cut."""
    bias, weight = layer.bias, weight_array(layer.weight)
    width = static_size(layer.result, layer.result_axis)
    return (
        weight is not None
        and bool(weight.size)
        and width is not None
        and static_size(layer.source, layer.source_axis) is not None
        and (bias is None or _is_row(bias, width))
        and (layer.groups == 1 or _divides(layer))
    )


def _divides(layer: Layer) -> bool:
    """Whether the channels are as many as the groups and the weight say."""
    ins = static_size(layer.source, layer.source_axis) or 0
    outs = static_size(layer.result, layer.result_axis) or 0
    in_weight = static_size(layer.weight, layer.weight_in) or 0
    out_weight = static_size(layer.weight, layer.weight_out) or 0
    if layer.weight_out == 0:
        in_weight *= layer.groups
    else:
        out_weight *= layer.groups
    whole = ins == in_weight and outs == out_weight
    return whole and not ins % layer.groups and not outs % layer.groups


def _is_row(bias: ir.Value, width: int) -> bool:
    """Known, and one number for each output channel, or one for all."""
    sizes = [static_size(bias, axis) for axis in range(rank(bias) or 0)]
    row = all(size == 1 for size in sizes[:-1]) and sizes[-1:] == [width]
    array = weight_array(bias)
    return array is not None and (row or array.size == 1)


def _derives_pads(node: ir.Node) -> bool:
    """Whether a transposed convolution's pads follow from the size asked for: runtimes differ."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return auto.startswith("SAME") or bool(node.attributes.get_ints("output_shape", []))


class Weights:
    """Which weights of each layer count as not zero; looked at once a weight."""

    def __init__(self, zero: Zero) -> None:
        self._zero = zero
        self._used: dict[tuple[ir.Value, int, int], Mask] = {}
        self.bounds: dict[str, float] = {}  # weight -> largest magnitude among those taken as zero

    def used(self, layer: Layer) -> Mask:
        """[out channels, in channels of a group]: True where some tap is not zero."""
        key = (layer.weight, layer.weight_out, layer.groups)
        if key not in self._used:
            self._used[key] = self._look(layer)
        return self._used[key]

    def forget(self) -> None:
        """Let go of what was looked up: a quarter of the weights' own size."""
        self._used.clear()

    def _look(self, layer: Layer) -> Mask:
        rows = layer.rows()
        used = np.zeros(rows.shape[:2], bool)
        step = max(1, CHUNK // max(1, rows.shape[1] * rows.shape[2]))
        dropped = 0.0
        for first in range(0, len(rows), step):
            size = np.abs(rows[first : first + step])
            bound = self._zero.bounds(size)
            # what is no number compares with nothing, and is not zero
            used[first : first + step] = ~(size <= bound[:, None, None]).all(axis=2)
            unused = size[~used[first : first + step]]
            dropped = max(dropped, float(unused.max(initial=0.0)))
        release(layer.weight.const_value)
        if dropped:
            self.bounds[str(layer.weight.name)] = dropped
        return used

    def needed(self, layer: Layer, rows: Mask) -> Mask:
        """Input channels that meet a weight that is not zero in one of these rows."""
        used = self.used(layer)
        if layer.groups == 1:
            return np.asarray(used[rows].any(axis=0))
        grouped = used.reshape(layer.groups, -1, used.shape[1])
        return np.asarray((grouped & rows.reshape(layer.groups, -1, 1)).any(axis=1)).reshape(-1)

    def touching(self, layer: Layer, channels: Mask) -> Mask:
        """Rows with a weight that is not zero for one of these input channels."""
        used = self.used(layer)
        if layer.groups == 1:
            return np.asarray(used[:, channels].any(axis=1))
        grouped = used.reshape(layer.groups, -1, used.shape[1])
        read = channels.reshape(layer.groups, 1, -1)
        return np.asarray((grouped & read).any(axis=2)).reshape(-1)


def tap_contributions(layer: Layer, constants: Constants) -> NDArray[np.float64]:
    """[out channels, taps]: what input channels at these constants (0 elsewhere) add, by tap."""
    rows = layer.rows()
    if layer.groups > 1:
        grouped = rows.reshape(layer.groups, -1, *rows.shape[1:]).astype(np.float64)
        values = constants.reshape(layer.groups, 1, -1, 1)
        return layer.scale * np.asarray((grouped * values).sum(axis=2)).reshape(len(rows), -1)
    columns = np.flatnonzero(constants)
    used = rows[:, columns].astype(np.float64)
    return layer.scale * np.asarray(np.einsum("mkt,k->mt", used, constants[columns]))


def contribution(layer: Layer, constants: Constants) -> Constants:
    """Return what the constants add to each row where all taps fall inside."""
    return np.asarray(tap_contributions(layer, constants).sum(axis=1))


def bias_rows(layer: Layer) -> Constants:
    """The bias as one number a row."""
    width = static_size(layer.result, layer.result_axis) or 0
    array = None if layer.bias is None else weight_array(layer.bias)
    if array is None:
        return np.zeros(width)
    flat = array.astype(np.float64).reshape(-1)
    return np.broadcast_to(flat, (width,))
