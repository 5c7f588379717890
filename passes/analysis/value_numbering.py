"""Which indices of an axis hold the same numbers for every input: value numbering, slice by slice.

Every index of an axis of a value gets a class; slices of the same class, of one value or of two,
are equal element for element, whatever the input. A class is the number of a key that says how the
slice is computed: by which operator, with which attributes and parameters (compared bit by bit),
from which classes. What nothing is known of is in a class of its own. Forward over the graph, as in
Alpern, Wegman and Zadeck, "Detecting equality of variables in programs", POPL 1988.
"""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.graph.model import release
from prunedeploy.passes.analysis.axes import Axes, rank
from prunedeploy.passes.analysis.value_numbers import ValueNumbers, digest, signature
from prunedeploy.passes.operators.layers import Layer, bias_rows
from prunedeploy.passes.operators.table import layer_of, operator


def number_values(graph: ir.Graph, axes: Axes) -> ValueNumbers:
    """The classes of the slices of all values of ``graph`` along the axes that ``axes`` may cut."""
    numbers = ValueNumbers(axes)
    for node in graph:
        known = operator(node)
        if (layer := layer_of(node)) is not None:
            _number_layer(layer, numbers)
        elif known.number is not None:
            known.number(node, numbers)
    return numbers


def _number_layer(layer: Layer, known: ValueNumbers) -> None:
    """Rows with the same weights and bias over sources of the same classes."""
    apart = layer.groups > 1 and layer.node.op_type != "Conv"
    if apart or not known.followed(layer.result, layer.result_axis):
        return
    rows, bias = layer.rows(), bias_rows(layer)
    assert layer.weight.shape is not None
    sources = known.of(layer.source, layer.source_axis).reshape(layer.groups, -1)
    groups = [digest(group) for group in sources]
    each = len(rows) // layer.groups
    kernel = tuple(layer.weight.shape.numpy()[2:]) if layer.spatial else ()
    form = (layer.source_axis, rank(layer.source), kernel, rows.dtype.str)
    kind = known.one((signature(layer.node), form))
    keys = [
        (kind, groups[index // each], digest(row), float(bias[index]).hex())
        for index, row in enumerate(rows)
    ]
    known.learn(layer.result, layer.result_axis, keys)
    release(layer.weight.const_value)
