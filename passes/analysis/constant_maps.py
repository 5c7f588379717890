"""Which channels hold the same map for every input, where it is not one number all over.

A channel of constants turns into a known map where zeros or other numbers come in at its borders
(a padded convolution, a pool that counts its padding, Pad) and where several constants are written
side by side (DepthToSpace). Operators that treat each channel by itself carry maps on, by being run
on them; a mean over a map is a constant again. Whichever convolution reads a known map adds what it
comes to instead (see ``map_border``). All sizes but the batch must be known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.core.records import Array
from prunedeploy.passes.analysis.axes import Mask
from prunedeploy.passes.analysis.borders import map_border, whole
from prunedeploy.passes.analysis.facts import Facts, Maps, constant_array
from prunedeploy.passes.analysis.feature_maps import filled, held_channels, map_sizes, per_channel
from prunedeploy.passes.operators.layers import Layer, Weights, bias_rows
from prunedeploy.passes.operators.operator import Operator, read_besides
from prunedeploy.reference.evaluate import evaluate_node


def find_constant_maps(
    node: ir.Node, operator: Operator, layer: Layer | None, weights: Weights, facts: Facts
) -> None:
    """Learn what a node makes of constants and maps, once its constants are known."""
    result = node.outputs[0] if len(node.outputs) else None
    if result is None or result.dtype is None or not result.dtype.is_floating_point():
        return
    sizes = map_sizes(result)
    known = None if sizes is None else _known(node, operator, layer, weights, facts)
    if sizes is None or known is None or len(known) != sizes[0]:
        return
    constants = facts.along(result, 1)
    fresh = known & np.isnan(constants)
    if not fresh.any():
        return
    maps = _run(node, facts) if layer is None else _swept(layer, facts)
    if maps is None or maps.shape != tuple(sizes):
        return
    flat = maps.reshape(len(maps), -1)
    fresh &= np.isfinite(flat).all(axis=1)
    even = fresh & (flat == flat[:, :1]).all(axis=1)
    facts.learn(result, 1, np.where(even, flat[:, 0], constants))
    facts.learn_maps(result, np.where(per_channel(fresh & ~even, result), maps, np.nan))


def _run(node: ir.Node, facts: Facts) -> Maps | None:
    """The node itself, run on one example of what is known; None where that is not one map."""
    inputs = [None if value is None else _example(value, facts) for value in node.inputs]
    imports = node.graph.opset_imports if node.graph is not None else {}
    result = np.array(evaluate_node(node, imports, inputs)[0], np.float64)
    return result[0] if len(result) == 1 else None


def _example(value: ir.Value, facts: Facts) -> Array:
    array = constant_array(value)
    if array is None:
        return filled(value, facts)[None]
    floats = value.dtype is not None and value.dtype.is_floating_point()
    return array.astype(np.float64) if floats else array


def _swept(layer: Layer, facts: Facts) -> Maps:
    """Return a convolution's maps for the known constants and maps, its bias added."""
    maps = whole(map_border(layer, filled(layer.source, facts)))
    return np.asarray(maps + per_channel(bias_rows(layer), layer.result))


def _known(
    node: ir.Node, operator: Operator, layer: Layer | None, weights: Weights, facts: Facts
) -> Mask | None:
    """The channels of the result that follow from constants and maps alone."""
    if layer is not None:
        held = held_channels(layer.source, facts) if layer.mappable else None
        return None if held is None else ~weights.touching(layer, ~held)
    if operator.maps is None or not node.inputs or read_besides(node):
        return None
    return operator.maps(node, facts)
