"""Softmax: along contiguous rows, or down planes with vectors across them."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import nest, record
from prunedeploy.runtimes.sparse.plan.steps import Softmax
from prunedeploy.runtimes.sparse.plan.views import UNIT


def emit(step: Softmax, context: Context) -> Code:
    """One call; scratch holds a row where it is not contiguous."""
    rank = len(step.x.shape)
    axis = step.axis % rank
    loops = nest(
        step.x.shape,
        (step.y.strides, step.x.strides),
        (other for other in range(rank) if other != axis),
    )
    count = step.x.shape[axis]
    steps = (step.x.strides[axis], step.y.strides[axis])
    columns = loops.rank > 0 and loops.inner() == (1, 1) and steps != (1, 1) and count > 1
    how = "columns" if columns else "rows"
    outer = loops.take(range(loops.rank - 1)) if columns else loops
    fields = {
        "rank": outer.rank,
        **{name: name for name in ("shape", "xs", "ys")},
        "count": count,
        "x_step": steps[0],
        "y_step": steps[1],
        "across": loops.shape[-1] if columns else 1,
    }
    name = f"pd_{'log_' if step.log else ''}softmax_{how}_of_step"
    body = [
        *outer.arrays("shape", "ys", "xs"),
        f"static const pd_softmax s = {record(fields)};",
        f"{name}(w, &s, {context.pointer(step.x)}, {context.pointer(step.y)});",
    ]
    top = f"PD_SOFTMAX({name}, pd_softmax_{how}, {int(step.log)})"
    scratch = 0 if columns else -(-count // UNIT) * UNIT
    return Code("\n".join(body), (top,), ("softmax.h",), scratch, how)
