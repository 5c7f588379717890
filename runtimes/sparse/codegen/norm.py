"""Normalisation: along contiguous rows, or down planes with vectors across them."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.reduce import down, vectors
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, record
from prunedeploy.runtimes.sparse.plan.steps import Norm
from prunedeploy.runtimes.sparse.plan.views import row_major

VIEWS = ("x", "y", "scale", "bias")  # in the order of their strides in the loops


def emit(step: Norm, context: Context) -> Code:
    """One call; scale and bias lie among the constants, with a stride for every loop."""
    rank = len(step.x.shape)
    axes = sorted({axis % rank for axis in step.axes})
    views = (step.x.strides, step.y.strides, _strides(step.scale, rank), _strides(step.bias, rank))
    kept = nest(step.x.shape, views, (axis for axis in range(rank) if axis not in axes))
    reduced = nest(step.x.shape, views, axes)
    columns = down(kept, reduced) and reduced.rank > 0
    loop = kept if columns else reduced
    inner, steps = (loop.shape[-1], loop.inner()) if loop.rank else (1, (1, 1, 0, 0))
    rest = loop.take(range(max(loop.rank - 1, 0)))
    kept, reduced = (rest, reduced) if columns else (kept, rest)
    fields: dict[str, object] = {
        "r.count": math.prod(step.x.shape[axis] for axis in axes),
        "r.vectors": vectors(kept.size, inner, context) if columns else 1,
        "r.inner": inner,
        "r.inner_x": steps[0],
        "r.inner_y": steps[1],
        "inner_scale": steps[2],
        "inner_bias": steps[3],
        "epsilon": literal(step.epsilon),
        "centre": int(step.centre),
        "scale": context.constant(_flat(step.scale, 1.0)),
        "bias": context.constant(_flat(step.bias, 0.0)),
    }
    body = _loops(kept, "kept", fields) + _loops(reduced, "reduced", fields)
    how = "columns" if columns else "rows"
    body += [
        f"const pd_norm n = {record(fields)};",
        f"pd_norm_{how}(w, &n, {context.pointer(step.x)}, {context.pointer(step.y)});",
    ]
    return Code("\n".join(body), (), ("norm.h",), choice=how)


def _loops(loops: Nest, name: str, fields: dict[str, object]) -> list[str]:
    """C: the arrays of these loops, which ``fields`` then point to."""
    fields[f"r.{name}"] = loops.rank
    fields[f"r.{name}_shape"] = f"{name}_shape"
    for view in VIEWS:
        inside = view == "x" or (view == "y" and name == "kept")
        fields[f"{'r.' if inside else ''}{name}_{view}"] = f"{name}_{view}"
    return loops.arrays(f"{name}_shape", *(f"{name}_{view}" for view in VIEWS))


def _strides(table: Array | None, rank: int) -> tuple[int, ...]:
    """In C order, 0 where it does not vary."""
    if table is None:
        return (0,) * rank
    shape = (1,) * (rank - table.ndim) + table.shape
    strides = row_major(0, shape).strides
    return tuple(0 if size == 1 else step for size, step in zip(shape, strides, strict=True))


def _flat(table: Array | None, default: float) -> Array:
    """As a kernel reads it: a number for all where there is none."""
    numbers = np.full(1, default) if table is None else table.reshape(-1)
    return numbers.astype(np.float32)
