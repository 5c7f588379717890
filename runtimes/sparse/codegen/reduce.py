"""Reductions: along contiguous rows, or down planes with vectors across them."""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, record
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.plan.steps import Reduce


def emit(step: Reduce, context: Context) -> Code:
    """One call of an instance of the kernel for this kind."""
    rank = len(step.x.shape)
    axes = sorted({axis % rank for axis in step.axes})
    strides = (step.x.strides, step.y.strides)
    kept = nest(step.x.shape, strides, (axis for axis in range(rank) if axis not in axes))
    reduced = nest(step.x.shape, strides, axes)
    columns = down(kept, reduced)
    how = "columns" if columns else "rows"
    inner_loop, outer_loops = (kept, reduced) if columns else (reduced, kept)
    inner = inner_loop.shape[-1] if inner_loop.rank else 1
    inner_x, inner_y = inner_loop.inner() if inner_loop.rank else (1, 1)
    rest = inner_loop.take(range(inner_loop.rank - 1))
    kept, reduced = (rest, outer_loops) if columns else (outer_loops, rest)
    fields = {
        "kept": kept.rank,
        "reduced": reduced.rank,
        **{x: x for x in ("kept_shape", "reduced_shape", "kept_x", "kept_y", "reduced_x")},
        "inner": inner,
        "inner_x": inner_x,
        "inner_y": inner_y,
        "vectors": vectors(kept.size, inner, context) if columns else 1,
        "count": math.prod(step.x.shape[axis] for axis in axes),
    }
    name = f"pd_reduce_{step.kind}_{how}"
    body = [
        *kept.arrays("kept_shape", "kept_x", "kept_y"),
        *reduced.arrays("reduced_shape", "reduced_x", ""),
        f"static const pd_reduction r = {record(fields)};",
        f"{name}(w, &r, {context.pointer(step.x)}, {context.pointer(step.y)});",
    ]
    top = f"PD_REDUCE({name}, pd_reduce_{how}, PD_{step.kind.upper()})"
    return Code("\n".join(body), (top,), ("reduce.h",), choice=how)


def down(kept: Nest, reduced: Nest) -> bool:
    """Whether vectors lie along what is kept: the first view's innermost axis is there."""
    along = [loops.rank > 0 and abs(loops.inner()[0]) == 1 for loops in (kept, reduced)]
    return along[0] and kept.inner()[0] == 1 and not along[1]


def vectors(items: int, inner: int, context: Context) -> int:
    """How many vectors are computed at once, so that every thread has some."""
    lanes = ISAS[context.isa].lanes
    wide = -(-inner // lanes)
    return 4 if items * (wide // 4) >= context.threads else 1
