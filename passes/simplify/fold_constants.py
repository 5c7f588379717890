"""Everything that does not depend on an input is computed once, here.

Subgraphs of initializers become initializers, and the target of a Reshape with one dynamic
dimension at most becomes a constant, whatever chain of Shape, Gather and Concat computed it:
exporters write such chains for every flatten of a network with a dynamic batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Note, PassResult
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.graph.tensors import element_bytes
from prunedeploy.passes.analysis.axes import same_length
from prunedeploy.passes.analysis.facts import constant_array
from prunedeploy.passes.analysis.shape_targets import name_lengths
from prunedeploy.passes.names import names, replace_input
from prunedeploy.passes.opset.emit import Emit
from prunedeploy.passes.opset.rules import RULES
from prunedeploy.passes.simplify.evaluate_constants import evaluate_constants
from prunedeploy.reference.opsets import opset

WRITTEN = {"Split": 18, "Squeeze": 13, "Unsqueeze": 13}  # the versions that onnxscript writes
REPEATING = ("Expand", "Gather", "Tile")
SMALL = 1 << 13  # elements that need no second thought
TINY = 1 << 6  # and those where the model is not to grow
MAX_ELEMENTS = 1 << 28  # elements of a constant that is computed here


@dataclass(frozen=True)
class FoldConstants:
    """Fold constant subgraphs and computed reshape targets.

    With ``larger`` a result of moderate size is stored though it is larger than what it was
    computed from. Runtimes fold such constants when they load a model, so that this brings no
    speed there; other passes may need it.
    """

    larger: bool = True
    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True

    def __call__(self, model: ir.Model) -> PassResult:
        """Edit ``model`` in place."""
        before = sum(1 for _ in model.graph.all_nodes())
        changed, lengths, targets = False, 0, 0
        while True:  # a target that is known makes lengths known, and with them what was computed
            folded, known, fixed = _round(model, SMALL if self.larger else TINY)
            changed, lengths, targets = changed or folded, lengths + known, targets + fixed
            if not (folded or known or fixed):
                break
        gone = before - sum(1 for _ in model.graph.all_nodes())
        target = "computed reshape targets made constant"
        length = "lengths of axes that are known"
        notes = (
            Note("nodes-folded", "graph", "taken", "nodes folded into initializers", gone),
            Note("reshape-targets-folded", "graph", "taken", target, targets),
            Note("lengths-folded", "graph", "taken", length, lengths),
        )
        taken = tuple(note for note in notes if note.count)
        return PassResult(changed or bool(taken), taken)


def _round(model: ir.Model, small: int) -> tuple[bool, int, int]:
    """Whether something was folded, how many lengths came to be known, how many targets."""
    before = sum(1 for _ in model.graph.all_nodes())
    lifted = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    changed = lifted(model).modified
    infer_shapes(model)
    lengths = sum(_fix_length(node) for node in list(model.graph))
    changed |= _fold(model, small)
    changed |= lifted(model).modified
    infer_shapes(model)
    name_lengths(model.graph)
    targets = sum(_fix_target(node) for node in model.graph)
    common.RemoveUnusedNodesPass()(model)
    fewer = before > sum(1 for _ in model.graph.all_nodes())
    return changed or fewer, lengths, targets


def _fold(model: ir.Model, small: int) -> bool:
    """onnxscript follows shapes and sequences; what is computed, the reference computes."""
    from onnxscript import optimizer

    before = set(model.graph.all_nodes())
    followed = bool(optimizer.fold_constants(model, should_fold=lambda _: False).modified)
    if followed:
        _in_this_opset(model, before)
    return evaluate_constants(model, partial(_worth_it, small), MAX_ELEMENTS) or followed


def _in_this_opset(model: ir.Model, before: set[ir.Node]) -> None:
    """Put nodes that onnxscript wrote, always in the newest form, into that of the model."""
    taken = names(model.graph)
    for node in list(model.graph.all_nodes()):
        if node in before or node.op_type not in WRITTEN:
            continue
        for version in range(WRITTEN[node.op_type], opset(model), -1):
            undo = RULES.get((node.op_type, version))
            if undo is not None and (reason := undo(node, Emit(node, taken))) is not None:
                raise UserError(f"{node.op_type} ({node.name}): {reason}")


def _worth_it(small: int, node: ir.Node) -> bool | None:
    """Not where it would make the file larger; None leaves the folder to its own rules.

    That is where a node repeats what it is given, writes it in a wider type, or where others read
    a large operand too, which then stays beside what is made of it. Texts stay as they are.
    """
    given = [value for value in node.inputs if value is not None]
    sizes = [_elements(value) for value in (*given, node.outputs[0])]
    made, result = sizes[-1], node.outputs[0]
    if result.dtype == ir.DataType.STRING:
        return False
    if node.op_type == "ConstantOfShape":
        return made is not None and made <= small
    if node.op_type in REPEATING and None not in sizes and sizes[0] != made:
        return bool((made or 0) <= (sizes[0] or 0))
    large = [value for value, size in zip(given, sizes, strict=False) if (size or 0) > small]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in large):
        return False
    if made is not None and made > small and result.dtype is not None:
        read = sum((_elements(v) or 0) * element_bytes(v.dtype) for v in set(given) if v.dtype)
        return None if made * element_bytes(result.dtype) <= read else False
    return None


def _elements(value: ir.Value) -> int | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _fix_length(node: ir.Node) -> bool:
    """Make a Gather or Slice of known lengths out of a Shape a constant; True if it is one now."""
    shape = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if node.op_type not in ("Gather", "Slice") or shape is None or shape.op_type != "Shape":
        return False
    source, result, graph = shape.inputs[0], node.outputs[0], node.graph
    given = [constant_array(value) for value in node.inputs[1:]]
    if source is None or source.shape is None or any(g is None for g in given) or graph is None:
        return False
    first = shape.attributes.get_int("start", 0)
    asked = list(source.shape)[first : shape.attributes.get_int("end", len(source.shape))]
    dims = np.array([dim if isinstance(dim, int) else -1 for dim in asked], np.int64)
    if node.op_type == "Gather":
        lengths = np.asarray(dims[np.asarray(given[0], np.int64)])
    elif len(given) < 2 or any(g is None or g.size != 1 for g in given):
        return False  # bounds are attributes before opset 10
    else:
        numbers = [int(g.item()) for g in given if g is not None]
        start, end, step = numbers[0], numbers[1], numbers[3] if len(numbers) > 3 else 1
        if step < 1:
            return False
        lengths = dims[start:end:step]
    inside = any(use.node.graph is not graph for use in result.uses())
    if (lengths < 0).any() or result.is_graph_output() or inside:
        return False
    for use in list(result.uses()):
        replace_input(use.node, use.idx, lengths, "length")
    return True


def _fix_target(node: ir.Node) -> bool:
    """Make the target shape of a Reshape a constant; True if it was not one and now is."""
    asked = node.inputs[1] if node.op_type == "Reshape" else None
    if asked is None or asked.const_value is not None:
        return False
    shape, source = node.outputs[0].shape, node.inputs[0]
    if shape is None or source is None or source.shape is None:
        return False
    # 0 copies a dimension of the input at the same place, -1 is worked out
    same = [*map(same_length, source.shape, shape)] + [False] * len(shape)
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
