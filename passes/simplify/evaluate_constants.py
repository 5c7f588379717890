"""Nodes whose inputs are all known, computed by the reference and replaced by what they make.

An operator is read as the model's opset has it (see ``prunedeploy.reference.evaluate``); what the
reference does not know, or cannot run, stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from prunedeploy.core.budget import Budget
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.passes.names import graph_of, initializer
from prunedeploy.reference.evaluate import evaluate_node
from prunedeploy.reference.opsets import drops
from prunedeploy.reference.randoms import OPERATORS as RANDOM
from prunedeploy.reference.registry import BUILDERS, STANDARD

# What quantised means is lost with the integers; a constant array costs less unmade.
KEPT = ("ConstantOfShape", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")


def evaluate_constants(
    model: ir.Model, worth: Callable[[ir.Node], bool | None], largest: int
) -> bool:
    """Make initializers, in place, of results that follow from initializers alone.

    Args:
        model: changed in place, its bodies too.
        worth: whether a node should be computed; None where there is nothing to say about it.
        largest: elements of the largest operand or result that is looked at.

    Returns:
        Whether any node was replaced.
    """
    changed = False
    budget = Budget(models.weight_bytes(model))
    for graph in list(model.graphs()):
        for node in list(graph):
            arrays = _known(node, worth, largest)
            if arrays is not None:
                changed |= _replace(node, arrays, model.opset_imports, budget)
    if changed:
        models.drop_unused(model.graph)
    return changed


def _known(
    node: ir.Node, worth: Callable[[ir.Node], bool | None], largest: int
) -> list[Array | None] | None:
    """The inputs of a node that is to be computed; None for any other."""
    if node.domain not in STANDARD or node.op_type in RANDOM or node.op_type in BUILDERS:
        return None
    given = [value for value in node.inputs if value is not None]
    if not given or drops(node) or not isinstance(node.graph, ir.Graph):
        return None
    tensors = [value.const_value for value in given]
    if any(tensor is None for tensor in tensors) or any(v.is_graph_input() for v in given):
        return None
    asked = worth(node)
    if asked is False or (asked is None and node.op_type in KEPT):
        return None
    if any(tensor is not None and tensor.size > largest for tensor in tensors):
        return None
    return [v.const_value.numpy() if v is not None and v.const_value else None for v in node.inputs]


def _replace(
    node: ir.Node, arrays: list[Array | None], imports: dict[str, int], budget: Budget
) -> bool:
    try:
        results = evaluate_node(node, imports, arrays, budget)
    except UserError:  # whoever runs the model says so
        return False
    wanted = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    by_value = dict(zip(node.outputs, results, strict=False))
    made = [by_value.get(value) for value in wanted]
    if not wanted or not all(_storable(array, budget.constants) for array in made):
        return False
    graph = graph_of(node)
    # arrays of their own, no views of operands
    owned = [np.array(array, order="C") for array in made]
    values = [initializer(v.name, array) for v, array in zip(wanted, owned, strict=True)]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [], wanted, values)
    for value in values:
        graph.register_initializer(value)
    return True


def _storable(array: object, largest: int) -> bool:
    """Numbers, and not too many; no sequence, no text."""
    return isinstance(array, np.ndarray) and array.dtype != object and array.size <= largest
