"""Rules for pools and resizing: some axes are swept, the others pass."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.operators.elementwise import read_besides
from prunedeploy.passes.operators.rule import wall


def couple_pool(node: ir.Node, axes: Axes) -> None:
    """Batch and channels pass, the window's axes stay whole."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or rank(source) is None or read_besides(node):
        wall(node, axes)
        return
    if rank(result) != rank(source):
        wall(node, axes)
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
