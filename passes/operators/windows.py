"""Rules for pools and resizing: some axes are swept, the others pass."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, Mask, rank, static_size
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.feature_maps import held_beside_constants
from prunedeploy.passes.analysis.ranges import Range, Ranges
from prunedeploy.passes.operators.channelwise import number_channels, reorder_channels
from prunedeploy.passes.operators.intervals import element_count, kept, mean
from prunedeploy.passes.operators.operator import Operator, opaque, read_besides


def couple_pool(node: ir.Node, axes: Axes) -> None:
    """Batch and channels pass, the window's axes stay whole."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or read_besides(node):
        opaque(node, axes)
        return
    if rank(result) != rank(source):
        opaque(node, axes)
        return
    for axis in range(rank(source) or 0):
        if axis < 2:
            axes.assign(result, axis, axes.of(source, axis))
        else:
            axes.pin_axis(source, axis)
            axes.pin_axis(result, axis)


def pool_constants(node: ir.Node, facts: Facts) -> None:
    """The window of a constant holds it, unless zeros of the padding are counted in."""
    source = node.inputs[0]
    known = facts.of(source, 1) if source is not None else None
    if known is None:
        return
    exact = node.op_type in ("MaxPool", "GlobalMaxPool", "GlobalAveragePool")
    if not exact and node.attributes.get_int("count_include_pad", False):
        padded = any(node.attributes.get_ints("pads", [0])) or node.attributes.get_string(
            "auto_pad", "NOTSET"
        ).startswith("SAME")
        known = np.where((known == 0) | (not padded), known, np.nan)
    facts.learn(node.outputs[0], 1, known)


def max_pool_range(node: ir.Node, ranges: Ranges) -> Range:
    """Return the input's range; a window that may lie outside the image holds anything."""
    strides = node.attributes.get_ints("strides", [1])
    kernel = node.attributes.get_ints("kernel_shape", [1] * len(strides))
    leaves_gaps = any(s > k for s, k in zip(strides, kernel, strict=False))
    outside = any(node.attributes.get_ints("pads", [0])) or leaves_gaps
    if node.attributes.get_int("ceil_mode", False) and outside:
        return kept(node, ranges, low=-math.inf)
    return kept(node, ranges)


def average_pool_range(node: ir.Node, ranges: Ranges) -> Range:
    """A mean of the window, the zeros of the padding included where they are counted."""
    count = math.prod(node.attributes.get_ints("kernel_shape", [])) or 1
    padded = any(node.attributes.get_ints("pads", [0])) or node.attributes.get_string(
        "auto_pad", "NOTSET"
    ).startswith("SAME")
    ceil = node.attributes.get_int("ceil_mode", False)
    zeros = (padded and node.attributes.get_int("count_include_pad", False)) or ceil
    bounds = kept(node, ranges, 0.0, 0.0) if zeros else kept(node, ranges)
    return mean(bounds, count, node)


def global_average_pool_range(node: ir.Node, ranges: Ranges) -> Range:
    """A mean over all positions."""
    source = node.inputs[0]
    sizes = [static_size(source, axis) for axis in range(2, rank(source) or 0)] if source else []
    return mean(kept(node, ranges), element_count(sizes), node)


def pool_maps(node: ir.Node, facts: Facts) -> Mask | None:
    """Known where the input is; runtimes differ in what counts where the last window overhangs."""
    overhangs = node.attributes.get_int("ceil_mode", False)
    return None if overhangs else held_beside_constants(node, facts)


_POOL = Operator(
    "MaxPool",
    couple=couple_pool,
    constants=pool_constants,
    maps=pool_maps,
    ranges=max_pool_range,
    selects_elements=True,
    number=number_channels,
    reorder=reorder_channels,
)

OPERATORS = (
    replace(_POOL, name="AveragePool", ranges=average_pool_range, selects_elements=False),
    replace(
        _POOL,
        name="GlobalAveragePool",
        maps=held_beside_constants,
        ranges=global_average_pool_range,
        selects_elements=False,
    ),
    replace(_POOL, name="GlobalMaxPool", maps=held_beside_constants, ranges=kept),
    _POOL,
)
