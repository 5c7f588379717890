"""Which channels hold the same for every input, one value or a map: one walk forward."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.constant_maps import find_constant_maps
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.analysis.range_propagation import propagate_ranges
from prunedeploy.passes.analysis.ranges import Ranges
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Layer, Weights, bias_rows, contribution
from prunedeploy.passes.operators.table import layer_of, operator


def find_constants(
    graph: ir.Graph, weights: Weights, zero: Zero, ranges: Ranges | None = None, maps: bool = True
) -> Facts:
    """The constants and known maps of all values, nodes in topological order.

    ``ranges`` holds what is known of the inputs, and afterwards what follows from it. Without
    ``maps`` all that is found holds for any size that the graph could be given.
    """
    facts = Facts(zero)
    ranges = Ranges(graph) if ranges is None else ranges
    for node in graph:
        layer, known = layer_of(node), operator(node)
        if layer is not None:
            facts.learn(layer.result, layer.result_axis, layer_constants(layer, weights, facts))
        elif known.constants is not None:
            known.constants(node, facts)
        propagate_ranges(node, known, layer, weights, ranges)
        ranges.prove(node, facts)
        if maps:
            find_constant_maps(node, known, layer, weights, facts)
    return facts


def channel_constants(layer: Layer, facts: Facts) -> Constants:
    """The constants of a layer's input channels; NaN where they vary or are infinite."""
    known = facts.along(layer.source, layer.source_axis)
    return np.where(np.isfinite(known), known, np.nan)


def layer_constants(layer: Layer, weights: Weights, facts: Facts) -> Constants:
    """Rows whose remaining weights meet constants only hold bias plus contributions.

    A constant other than zero counts as varying where the layer pads: zeros at the borders make
    the row differ there from the middle.
    """
    known = channel_constants(layer, facts)
    steady = ~np.isnan(known) if layer.uniform else known == 0
    rows = bias_rows(layer) + contribution(layer, np.where(steady, known, 0.0))
    return np.where(weights.touching(layer, ~steady), np.nan, rows)
