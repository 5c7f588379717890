"""Outputs of a network that are the same for every input: what pruning too far leaves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.graph import input_range
from prunedeploy.graph.random_nodes import draws
from prunedeploy.graph.subgraphs import bodies
from prunedeploy.passes.analysis.axes import rank
from prunedeploy.passes.analysis.constants import find_constants
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.analysis.ranges import Ranges
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Weights

CHANNELS = 1  # the axis of channels
SIZES = ("Shape", "Size")  # operators that read no element


def unvarying_outputs(model: ir.Model) -> tuple[str, ...]:
    """The names of the outputs that no element of an input can change, within the stated ranges.

    Example:
        ``("output",)`` for a network one of whose layers has only zero weights
    """
    zero = Zero()
    ranges = Ranges(model.graph, input_range.of(model))
    facts = find_constants(model.graph, Weights(zero), zero, ranges)
    return _without(model.graph, _varying(model, facts))


def unconnected_outputs(model: ir.Model) -> tuple[str, ...]:
    """The names of the outputs that no input leads to, whatever the weights are."""
    return _without(model.graph, _varying(model, Facts(Zero())))


def _without(graph: ir.Graph, varying: set[ir.Value]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in graph.outputs if value not in varying)


def _varying(model: ir.Model, facts: Facts) -> set[ir.Value]:
    """The values that may depend on the elements of an input; nodes in topological order."""
    graph = model.graph
    varying = {value for value in graph.inputs if value.name not in graph.initializers}
    for node in graph:
        reads = node.op_type not in SIZES and not varying.isdisjoint(node.inputs)
        if reads or draws(node, model) or any(True for _ in bodies(node)):
            varying.update(value for value in node.outputs if not _is_known(value, facts))
    return varying


def _is_known(value: ir.Value, facts: Facts) -> bool:
    """Whether every element is known: along one axis, or with maps of the channels."""
    for axis in range(rank(value) or 0):
        known, maps = facts.of(value, axis), facts.maps(value) if axis == CHANNELS else None
        if known is None and maps is None:
            continue
        steady = np.isfinite(facts.along(value, axis)).astype(bool)
        if maps is not None:
            mapped = np.isfinite(maps).reshape(len(maps), -1).all(axis=1).astype(bool)
            steady = np.logical_or(steady, mapped) if steady.size else mapped
        if steady.size and steady.all():
            return True
    return False
