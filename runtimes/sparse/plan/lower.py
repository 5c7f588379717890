"""Lowering: an ONNX model to a plan, or the operator that is in the way.

read     ONNX -> Graph: operators on whole tensors of known shape   importer, operators/
fuse     fewer operators that compute the same                      fuse/
place    Graph -> steps on strided views of buffers                 place, layout, emit
interleave   sixteen images side by side                            runtimes/sparse/interleave
memory   buffers -> offsets in one arena                            runtimes/sparse/memory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from prunedeploy.runtimes.sparse.importer.fuse import fuse
from prunedeploy.runtimes.sparse.importer.importer import RefusedError, read
from prunedeploy.runtimes.sparse.importer.operators import TABLE
from prunedeploy.runtimes.sparse.importer.prepare import prepare
from prunedeploy.runtimes.sparse.plan.batch_innermost import interleave
from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.steps import LARGEST, Plan, reads, writes
from prunedeploy.runtimes.sparse.plan.steps_of import plan_graph

NO_SIZES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Refusal:
    """Why a model has no plan."""

    operator: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.node}): {self.reason}"


def lower(
    model: ir.Model, batch: int, sizes: Mapping[str, int] = NO_SIZES, beside: bool = True
) -> Plan | Refusal:
    """The plan for ``batch`` samples, memory planned.

    Args:
        model: float32; it is not changed.
        batch: what the first axis of the inputs is, where the model leaves it open.
        sizes: the other axes that the model leaves open, by name.
        beside: whether sixteen images may lie side by side; else they are behind one another.
    """
    try:
        prepared = prepare(model)
        graph, inputs = read(prepared, batch, sizes, TABLE)
        fuse(graph)
        names = [str(value.name) for value in prepared.graph.outputs]
        plan = plan_graph(graph, inputs, names, batch)
        _check_sizes(plan)
        return allocate(interleave(plan) if beside else plan)
    except RefusedError as refused:
        return Refusal(refused.operator, refused.node, refused.reason)


def _check_sizes(plan: Plan) -> None:
    """Every tensor is one that the kernels' 32-bit numbers can count."""
    for step in plan.steps:
        for view in (*reads(step), *writes(step)):
            size = plan.buffers[view.buffer].size
            if size > LARGEST:
                raise RefusedError(
                    type(step).__name__,
                    step.name,
                    f"a tensor of {size} elements is too large, {LARGEST} are the most",
                )
