"""Embeddings: rows of a constant table, checked against its bounds as they are read."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, record
from prunedeploy.runtimes.sparse.plan.steps import Lookup


def emit(step: Lookup, context: Context) -> Code:
    """One call for the type of the indices; a row's elements go where ``y``'s last axes say."""
    rank = len(step.indices.shape)
    loops = nest(step.indices.shape, (step.y.strides[:rank], step.indices.strides))
    if not loops.rank:
        loops = Nest((1,), ((1,), (1,)))
    outer, (y_step, i_step) = loops.take(range(loops.rank - 1)), loops.inner()
    # the rows' elements in the table's order, merged where they follow each other in y
    row = nest(step.y.shape[rank:], (_contiguous(step.table.shape[1:]), step.y.strides[rank:]))
    if not row.rank:
        row = Nest((1,), ((1,), (1,)))
    kind = context.dtype(step.indices)
    name = f"pd_lookup_{kind}"
    fields = {
        "rank": outer.rank,
        "shape": "shape",
        "is": "is",
        "ys": "ys",
        "count": loops.shape[-1],
        "i_step": i_step,
        "y_step": y_step,
        "entries": step.table.shape[0],
        "width": math.prod(step.table.shape[1:]),
        "row_rank": row.rank,
        "row_shape": "row_shape",
        "row_ys": "row_ys",
    }
    table = context.constant(step.table.astype(np.float32))
    body = [
        *outer.arrays("shape", "ys", "is"),
        *row.arrays("row_shape", "", "row_ys"),
        f"static const pd_lookup l = {record(fields)};",
        f"{name}(w, &l, {context.pointer(step.indices)}, {table}, {context.pointer(step.y)});",
    ]
    return Code("\n".join(body), (f"PD_LOOKUP({name}, {kind})",), ("lookup.h",))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
