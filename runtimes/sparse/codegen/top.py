"""The largest or smallest elements along an axis, with their indices."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import nest, record
from prunedeploy.runtimes.sparse.plan.steps import Top


def emit(step: Top, context: Context) -> Code:
    """One call; a row at a time."""
    rank, axis = len(step.x.shape), step.axis
    behind = step.y.strides[1:]
    others = [other for other in range(rank) if other != axis]
    loops = nest(step.x.shape, (step.x.strides, behind), others)
    fields = {
        "rank": loops.rank,
        **{name: name for name in ("shape", "xs", "ys")},
        "count": step.x.shape[axis],
        "kept": step.y.shape[1 + axis],
        "x_step": step.x.strides[axis],
        "y_step": behind[axis],
        "indices": step.y.strides[0],
        "largest": int(step.largest),
        "later": int(step.later),
    }
    body = [
        *loops.arrays("shape", "xs", "ys"),
        f"static const pd_top t = {record(fields)};",
        f"pd_top_of_rows(w, &t, {context.pointers(step.x, step.y)});",
    ]
    return Code("\n".join(body), (), ("top.h",), choice=f"{step.y.shape[1 + axis]}")
