"""Elements by computed indices, the largest ones, sums of all before; and parts written anew."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import (
    EXACT,
    ConcatOp,
    GatherOp,
    Tensor,
    TopOp,
    constant,
)
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer

MAX_SCAN = 2048  # elements of an axis that sums run along: they are products with so many columns


def take(call: Call, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Gather with indices that are computed."""
    build, front, back = call.build, x.shape[:axis], x.shape[axis + 1 :]
    before, count, after = math.prod(front), indices.size, math.prod(back)
    wide = build.reshape(x, (before, x.shape[axis], after))
    index = build.reshape(_index(call, indices), (1, count, 1))
    y = build.take(wide, index, 1, (before, count, after))
    return build.reshape(y, (*front, *indices.shape, *back))


def _index(call: Call, indices: Tensor) -> Tensor:
    """Indices as float32, which has all that lie within any axis: those of the caller too."""
    if not indices.raw and indices.bound >= EXACT:
        raise call.refuse("its indices are integers that float32 may round")
    return call.build.floating(indices)


def gather_elements(call: Call) -> Tensor:
    """The axes of the indices are those of the result."""
    x, indices, axis, build = call.tensor(0), call.tensor(1), call.axis(0), call.build
    for other, size in enumerate(indices.shape):
        if other != axis:
            x = build.part(x, other, 0, size)
    return build.take(x, _index(call, indices), axis, indices.shape)


def gather_nd(call: Call) -> Tensor:
    """Several indices at once become one into all their axes together."""
    x, indices, build = call.tensor(0), call.tensor(1), call.build
    shared, count = call.integer("batch_dims", 0), indices.shape[-1]
    sizes, back = x.shape[shared : shared + count], x.shape[shared + count :]
    front = indices.shape[shared:-1]
    batch, many = math.prod(x.shape[:shared]), math.prod(front)
    if math.prod(sizes) >= EXACT:
        raise call.refuse("its indices are integers that float32 may round")
    wide = build.reshape(x, (batch, math.prod(sizes), math.prod(back)))
    each = build.reshape(_index(call, indices), (batch, many, count))
    flat = _flat(call, each, sizes) if count > 1 else each
    y = build.take(wide, flat, 1, (batch, many, math.prod(back)))
    return build.reshape(y, (*x.shape[:shared], *front, *back))


def _flat(call: Call, indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """[.., K] as [.., 1]; what lies outside of one axis then lies outside of all together."""
    build, total = call.build, e.number(0.0)
    outside = e.number(math.prod(sizes))
    valid: Expr | None = None
    for axis, size in enumerate(sizes):
        index = build.operand(build.part(indices, indices.rank - 1, axis, 1))
        behind = Expr("add", (index, e.number(size)))
        index = Expr("where", (Expr("less", (index, e.number(0.0))), behind, index))
        low = Expr("greaterorequal", (index, e.number(0.0)))
        within = Expr("and", (low, Expr("less", (index, e.number(size)))))
        valid = within if valid is None else Expr("and", (valid, within))
        total = Expr("add", (Expr("mul", (total, e.number(size))), index))
    assert valid is not None
    made = Expr("where", (valid, total, outside))
    return build.elementwise(made, (*indices.shape[:-1], 1), "int64", math.prod(sizes))


def scatter_nd(call: Call) -> Tensor:
    """Known positions: the data with the updates behind them, in another order."""
    if call.string("reduction", "none") != "none":
        raise call.refuse("reductions are not known")
    x, updates, build = call.exact(0), call.exact(2), call.build
    indices = call.constant(1, "indices")
    assert indices is not None
    count = indices.shape[-1]
    sizes, back = x.shape[:count], x.shape[count:]
    rows, width = math.prod(sizes), math.prod(back)
    each = indices.reshape(-1, count)
    within = np.less_equal(np.negative(sizes), each) & np.less(each, sizes)
    if not within.all():
        raise call.refuse("an index lies outside of its axis")
    at = np.ravel_multi_index(tuple((each % np.array(sizes)).T), sizes)
    order = np.arange(rows)
    order[at] = rows + np.arange(len(at))  # the last one counts
    parts = [build.reshape(x, (rows, width)), build.reshape(updates, (len(at), width))]
    both = Tensor((rows + len(at), width), x.dtype, bound=max(x.bound, updates.bound))
    parts = [build.floating(part) for part in parts]
    joined = build.add(ConcatOp(build.name, parts, both, 0))
    picked = Tensor((rows, width), x.dtype, bound=both.bound)
    y = build.add(GatherOp(build.name, [joined], picked, 0, tuple(map(int, order))))
    return build.reshape(y, x.shape)


def _top(call: Call, axis: int, count: int, largest: bool, later: bool) -> tuple[Tensor, Tensor]:
    """Values, and indices as integers."""
    x, build = call.exact(0), call.build
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if count > x.shape[axis] or x.shape[axis] >= EXACT:
        raise call.refuse(f"{count} of {x.shape[axis]} elements")
    both = build.add(TopOp(build.name, [x], Tensor((2, *shape)), axis, largest, later))
    values, indices = (build.reshape(build.part(both, 0, i, 1), shape) for i in (0, 1))
    return typed(values, x.dtype, x.bound), typed(indices, "int64", x.shape[axis])


def typed(x: Tensor, dtype: str, bound: float) -> Tensor:
    """``x``, which was just made, as standing for another type."""
    x.dtype, x.bound = dtype, bound
    return x


def top_k(call: Call) -> tuple[Tensor, Tensor]:
    """The largest or smallest elements."""
    array = call.constant(1, "k") if call.opset >= 10 else np.array(call.integer("k", 1))
    assert array is not None
    largest = bool(call.integer("largest", 1))
    return _top(call, call.axis(-1), int(array.reshape(())), largest, later=False)


def _extreme(largest: bool) -> Importer:
    """ArgMax or ArgMin."""

    def run(call: Call) -> Tensor:
        axis, later = call.axis(0), bool(call.integer("select_last_index", 0))
        _, indices = _top(call, axis, 1, largest, later)
        if call.integer("keepdims", 1):
            return indices
        shape = [n for other, n in enumerate(indices.shape) if other != axis]
        return call.build.reshape(indices, shape)

    return run


def cumulative_sum(call: Call) -> Tensor:
    """A linear layer along the axis, of ones below the diagonal."""
    x, build, array = call.exact(0), call.build, call.constant(1, "axis")
    assert array is not None
    axis = int(array.reshape(())) % x.rank
    length = x.shape[axis]
    if length > MAX_SCAN:
        raise call.refuse(f"it sums along {length} elements, {MAX_SCAN} are the most")
    ones: Array = np.tri(length, k=-1 if call.integer("exclusive", 0) else 0, dtype=np.float32)
    if call.integer("reverse", 0):
        ones = ones.T
    total = build.linear(build.floating(x), ones, None, axis)
    return typed(total, x.dtype, x.bound * length) if x.is_integer else total


def triangle(call: Call) -> Tensor:
    """What lies on one side of a diagonal is 0."""
    x, build, diagonal = call.exact(0), call.build, call.constant(1, "diagonal")
    k = 0 if diagonal is None else int(diagonal.reshape(()))
    ones = np.ones(x.shape[-2:], bool)
    kept = np.triu(ones, k) if call.integer("upper", 1) else np.tril(ones, k)
    made = Expr("where", (build.operand(constant(kept)), build.operand(x), e.number(0.0)))
    return build.elementwise(made, x.shape, x.dtype, x.bound)


TABLE: dict[str, Importer] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "ArgMax": _extreme(largest=True),
    "ArgMin": _extreme(largest=False),
    "CumSum": cumulative_sum,
    "Trilu": triangle,
}
