"""Ranges through one node: the walk over the graph is that of ``constants``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import rank, static_size
from prunedeploy.passes.analysis.facts import Constants, Facts
from prunedeploy.passes.analysis.layer_ranges import layer_range
from prunedeploy.passes.analysis.ranges import Range, Ranges, everywhere
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Layer, Weights
from prunedeploy.passes.operators.operator import Operator


class _Side(Facts):
    """Lower or upper bounds in the place of constants, for the rules that only move them."""

    def __init__(self, ranges: Ranges, upper: bool) -> None:
        super().__init__(Zero())
        self._ranges, self._upper = ranges, upper
        self.learned: dict[tuple[ir.Value, int], Constants] = {}

    def of(self, value: ir.Value, axis: int) -> Constants | None:
        """The bounds along an axis, where there are any."""
        size = static_size(value, axis)
        if size is None:
            return None
        bounds = self._ranges.along(value, axis, size)[self._upper]
        return bounds if np.isfinite(bounds).any() else None

    def learn(self, value: ir.Value, axis: int, constants: Constants | None) -> None:
        """Record the bounds that a rule derived, as they are."""
        if constants is not None:
            self.learned[value, axis] = constants


def _move(node: ir.Node, known: Operator, ranges: Ranges) -> None:
    """Bounds move as constants do, once for each side; elsewhere the hull of all data holds."""
    count = len(node.inputs) if node.op_type == "Concat" else 1
    hulls = [ranges.of(value).hull() for value in node.inputs[:count]]
    hull = min(low for low, _ in hulls), max(high for _, high in hulls)
    sides = _Side(ranges, False), _Side(ranges, True)
    if known.constants is not None:
        for side in sides:
            known.constants(node, side)
    for value in node.outputs:
        ranges.learn(value, _best(value, sides, hull))


def _best(value: ir.Value, sides: tuple[_Side, _Side], hull: tuple[float, float]) -> Range:
    """Return the range along an axis where bounds differ from index to index, else the hull."""
    for axis in (1, *range(rank(value) or 0)):
        size, known = static_size(value, axis), [side.learned.get((value, axis)) for side in sides]
        if size is None or all(f is None for f in known):
            continue
        bounds = [
            np.full(size, end) if f is None else np.where(np.isnan(f), end, f)
            for f, end in zip(known, hull, strict=True)
        ]
        low, high = np.maximum(bounds[0], hull[0]), np.minimum(bounds[1], hull[1])
        if size > 1 and ((low != low[0]).any() or (high != high[0]).any()):
            return Range(low, high, axis)
    return everywhere(*hull)


def propagate_ranges(
    node: ir.Node, known: Operator, layer: Layer | None, weights: Weights, ranges: Ranges
) -> None:
    """Record the ranges of a node's results; ``layer`` is the node as a layer."""
    if layer is not None:
        ranges.learn(layer.result, layer_range(layer, weights, ranges))
    elif not node.outputs:
        return
    elif known.moves_elements:
        _move(node, known, ranges)
    elif known.ranges is not None and _known_arithmetic(node, known):
        ranges.learn(node.outputs[0], known.ranges(node, ranges))


def _known_arithmetic(node: ir.Node, known: Operator) -> bool:
    """Whether real numbers bound what is computed: integers wrap around, and quotients truncate."""
    dtype = node.outputs[0].dtype
    return dtype is None or dtype.is_floating_point() or known.selects_elements
