"""Everything that does not depend on an input is computed once, here.

Subgraphs of initializers become initializers, and the target of a Reshape with one dynamic
dimension at most becomes a constant, whatever chain of Shape, Gather and Concat computed it:
exporters write such chains for every flatten of a network with a dynamic batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from prunedeploy import model as models
from prunedeploy.passes.shrink.rule import replace_input
from prunedeploy.types import Note, PassResult

REPEATING = ("Expand", "Gather", "Tile")


@dataclass(frozen=True)
class FoldConstants:
    """Fold constant subgraphs (onnxscript's folder) and computed reshape targets."""

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        before = len(model.graph)
        lifted = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        changed = lifted(model).modified
        models.infer_shapes(model)
        changed |= bool(optimizer.fold_constants(model, should_fold=_worth_it).modified)
        changed |= lifted(model).modified
        models.infer_shapes(model)
        targets = sum(_fix_target(node) for node in model.graph)
        common.RemoveUnusedNodesPass()(model)
        gone = before - len(model.graph)
        notes = []
        if gone:
            notes.append(Note("graph", "taken", "nodes folded into initializers", gone))
        if targets:
            notes.append(Note("graph", "taken", "computed reshape targets made constant", targets))
        return PassResult(changed or gone > 0 or targets > 0, tuple(notes))


def _same(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Two unnamed dimensions are equal as objects, and still may be any two numbers."""
    return one == other and (isinstance(one, int) or one.value is not None)


def _worth_it(node: ir.Node) -> bool | None:
    """Not where the node only repeats what it is given: folding would make the file larger."""
    sizes = [_elements(value) for value in (*node.inputs, node.outputs[0]) if value is not None]
    if node.op_type in REPEATING and None not in sizes and sizes[0] != sizes[-1]:
        return bool((sizes[-1] or 0) <= (sizes[0] or 0))
    return None


def _elements(value: ir.Value) -> int | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _fix_target(node: ir.Node) -> bool:
    """Make the target shape of a Reshape a constant; True if it was not one and now is."""
    if (
        node.op_type != "Reshape"
        or node.inputs[1] is None
        or node.inputs[1].const_value is not None
    ):
        return False
    shape, source = node.outputs[0].shape, node.inputs[0]
    if shape is None or source is None or source.shape is None:
        return False
    # 0 copies a dimension of the input at the same place, -1 is worked out
    same = [_same(a, b) for a, b in zip(source.shape, shape, strict=False)] + [False] * len(shape)
    target = [
        dim if isinstance(dim, int) else (0 if copied else -1)
        for dim, copied in zip(shape, same, strict=False)
    ]
    if 0 in shape:
        return False  # a dimension without elements cannot be told from one to copy
    if target.count(-1) > 1 or node.attributes.get_int("allowzero", False):
        return False
    replace_input(node, 1, np.array(target, np.int64), "shape")
    return True
