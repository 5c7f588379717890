"""Elements by computed indices, checked against the axis that they are of."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, record
from prunedeploy.runtimes.sparse.plan.steps import Take


def emit(step: Take, context: Context) -> Code:
    """One call; along the innermost loop the index is one, or one an element."""
    loops = nest(step.y.shape, (step.y.strides, step.x.strides, step.index.strides))
    if not loops.rank:
        loops = Nest((1,), ((1,), (1,), (1,)))
    outer, (y_step, x_step, i_step) = loops.take(range(loops.rank - 1)), loops.inner()
    fields = {
        "rank": outer.rank,
        **{name: name for name in ("shape", "ys", "xs", "is")},
        "count": loops.shape[-1],
        "y_step": y_step,
        "x_step": x_step,
        "i_step": i_step,
        "size": step.size,
        "stride": step.stride,
    }
    body = [
        *outer.arrays("shape", "ys", "xs", "is"),
        f"static const pd_taken t = {record(fields)};",
        f"pd_take_by_index(w, &t, {context.pointers(step.x, step.index, step.y)});",
    ]
    return Code("\n".join(body), (), ("take.h",), choice="row" if i_step == 0 else "element")
