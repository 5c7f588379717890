"""Lowering: an ONNX model to a plan, or the operator that is in the way.

prepare             functions inlined, normalisations folded       importer/prepare.py
read                operators on whole tensors of known shape      importer/importer.py, operators/
fuse                fewer operators that compute the same          importer/fuse/
plan_graph          steps on strided views of buffers              layout.py, steps_of.py
to_batch_innermost  the images of a batch innermost in the planes  batch_innermost.py
allocate            an offset in one arena for every buffer        memory.py
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from prunedeploy.runtimes.sparse.importer.fuse import fuse
from prunedeploy.runtimes.sparse.importer.importer import RefusedError, read
from prunedeploy.runtimes.sparse.importer.operators import BYTES, TABLE
from prunedeploy.runtimes.sparse.importer.prepare import prepare
from prunedeploy.runtimes.sparse.plan.batch_innermost import to_batch_innermost
from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.steps import Plan, reads, writes
from prunedeploy.runtimes.sparse.plan.steps_of import plan_graph
from prunedeploy.runtimes.sparse.plan.views import MAX_ELEMENTS

NO_SIZES: Mapping[str, int] = MappingProxyType({})
Refusal = RefusedError  # why a model has no plan, as a value


def lower(
    model: ir.Model,
    batch: int,
    sizes: Mapping[str, int] = NO_SIZES,
    batch_innermost: bool = True,
    on_bytes: bool = False,
) -> Plan | Refusal:
    """Lower ``model`` to the plan for ``batch`` samples, with all offsets.

    Args:
        model: float32; it is not changed.
        batch: what the first axis of the inputs is, where the model leaves it open.
        sizes: the other axes that the model leaves open, by name.
        batch_innermost: whether the plan may have the batch innermost where that is possible, or
            images always follow one another.
        on_bytes: whether quantised layers are computed on bytes, or all in float32.

    Returns:
        The plan; a ``Refusal`` where the runtime cannot compute the model.
    """
    try:
        prepared = prepare(model)
        graph, inputs = read(prepared, batch, sizes, BYTES if on_bytes else TABLE)
        fuse(graph)
        outputs = [str(value.name) for value in prepared.graph.outputs]
        plan = plan_graph(graph, inputs, outputs, batch)
        check_sizes(plan)
        if batch_innermost:
            plan = to_batch_innermost(plan)
        return allocate(plan)
    except RefusedError as refused:
        return refused


def check_sizes(plan: Plan) -> None:
    """Check that the kernels' 32-bit numbers can count the elements of every tensor.

    Raises:
        RefusedError: they cannot.
    """
    for step in plan.steps:
        for view in (*reads(step), *writes(step)):
            size = plan.buffers[view.buffer].size
            if size > MAX_ELEMENTS:
                raise RefusedError(
                    type(step).__name__,
                    step.name,
                    f"a tensor of {size} elements is too large, {MAX_ELEMENTS} are the most",
                )
