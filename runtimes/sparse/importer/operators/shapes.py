"""Operators that only move elements."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.importer import graph
from prunedeploy.runtimes.sparse.importer.graph import EXACT, Tensor
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer
from prunedeploy.runtimes.sparse.importer.operators import indexing


def shape(call: Call) -> Tensor:
    """A constant, since all shapes are known."""
    rank = call.x.rank
    start, end = (call.integer(n, d) for n, d in (("start", 0), ("end", rank)))
    return graph.constant(np.asarray(call.x.shape[slice(start, end)], np.int64))


def size(call: Call) -> Tensor:
    """The number of elements."""
    return graph.constant(np.asarray(call.x.size, np.int64))


def identity(call: Call) -> Tensor:
    """Its input."""
    return call.x


def dropout(call: Call) -> Tensor:
    """Its input: it drops nothing when not trained."""
    training = call.constant(2, "training_mode")
    if training is not None and training.any():
        raise call.refuse("it is set to training")
    return call.x


def reshape(call: Call) -> Tensor:
    """0 takes the size over, -1 what is left."""
    wanted = call.ints(1, "shape", "shape") or []
    if not call.integer("allowzero", 0):
        wanted = [call.x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = call.x.size // known if known else 0
    if math.prod(wanted) != call.x.size:
        raise call.refuse(f"{list(call.x.shape)} does not fit {wanted}: is the batch fixed in it?")
    return call.build.reshape(call.x, wanted)


def flatten(call: Call) -> Tensor:
    """Flatten to a matrix."""
    given = call.integer("axis", 1)
    axis = given + call.x.rank if given < 0 else given
    front = math.prod(call.x.shape[:axis])
    return call.build.reshape(call.x, (front, math.prod(call.x.shape[axis:])))


def squeeze(call: Call) -> Tensor:
    """Without axes of length 1."""
    axes = call.ints(1, "axes", "axes")
    if axes is None:
        axes = [axis for axis, n in enumerate(call.x.shape) if n == 1]
    gone = {axis % call.x.rank for axis in axes}
    return call.build.reshape(
        call.x, [n for axis, n in enumerate(call.x.shape) if axis not in gone]
    )


def unsqueeze(call: Call) -> Tensor:
    """Add axes of length 1."""
    axes = call.ints(1, "axes", "axes") or []
    rank = call.x.rank + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(call.x.shape)
    return call.build.reshape(call.x, [1 if axis in new else next(rest) for axis in range(rank)])


def transpose(call: Call) -> Tensor:
    """Axes in another order."""
    return call.build.transpose(call.x, call.sequence("perm", list(range(call.x.rank))[::-1]))


def expand(call: Call) -> Tensor:
    """Broadcast."""
    wanted = call.ints(1, "shape", "shape") or []
    return call.build.expand(call.x, graph.broadcast(call.x.shape, wanted))


def tile(call: Call) -> Tensor:
    """Repeated along each axis."""
    repeats = call.ints(1, "repeats", "repeats") or []
    x, build = call.x, call.build
    split = build.reshape(x, [m for n in x.shape for m in (1, n)])
    wide = build.expand(split, [m for r, n in zip(repeats, x.shape, strict=True) for m in (r, n)])
    return build.reshape(wide, [r * n for r, n in zip(repeats, x.shape, strict=True)])


def concat(call: Call) -> Tensor:
    """Concatenate along an axis."""
    build = call.build
    tensors = [x for x in call.inputs if x is not None]
    axis = call.axis(1)
    dtypes = {x.dtype for x in tensors}
    bound = max(x.bound for x in tensors)
    if len(dtypes) > 1 or (tensors[0].is_integer and bound >= EXACT):
        raise call.refuse(f"it joins {', '.join(sorted(dtypes))}")
    parts = [build.floating(x) for x in tensors if x.shape[axis]]
    if len(parts) == 1:
        return parts[0]
    total = list(parts[0].shape)
    total[axis] = sum(x.shape[axis] for x in parts)
    whole = Tensor(tuple(total), tensors[0].dtype, bound=bound)
    return build.add(graph.ConcatOp(build.name, parts, whole, axis))


def split(call: Call) -> tuple[Tensor, ...]:
    """Runs of one axis."""
    x, axis = call.x, call.axis(0)
    sizes = call.ints(1, "split", "split")
    if sizes is None:
        count = len(call.node.outputs)
        if call.opset < 18 and x.shape[axis] % count:
            raise call.refuse(f"{x.shape[axis]} does not fall into {count} equal parts")
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(count)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(call.build.part(x, axis, start, n) for start, n in zip(starts, sizes, strict=True))


def slice_(call: Call) -> Tensor:
    """Every so many elements of some axes."""
    x = call.x
    firsts = call.ints(1, "starts", "starts") or []
    lasts = call.ints(2, "ends", "ends") or []
    axes = call.ints(3, "axes", "axes")
    strides = call.ints(4, "steps", "steps") or [1] * len(firsts)
    starts, steps, new = [0] * x.rank, [1] * x.rank, list(x.shape)
    for axis, first, last, step in zip(
        axes if axes is not None else range(len(firsts)), firsts, lasts, strides, strict=True
    ):
        # NumPy's rules, but for an end that lies before the beginning and means all
        end = None if step < 0 and last < -x.shape[axis] else last
        chosen = range(x.shape[axis])[slice(first, end, step)]
        at = axis % x.rank
        starts[at] = chosen.start if chosen else 0
        steps[at], new[at] = step, len(chosen)
    return call.build.slice(x, starts, steps, new)


def gather(call: Call) -> Tensor:
    """Known indices of an axis, or rows of a known table."""
    x, indices = call.tensor(0), call.tensor(1)
    axis = call.axis(0)
    if indices.value is None:
        return _lookup(call, x, indices, axis)
    index = np.asarray(indices.value, np.int64)
    if index.size and not (-x.shape[axis] <= index.min() and index.max() < x.shape[axis]):
        raise call.refuse(f"an index lies outside of axis {axis}")
    index = index % x.shape[axis]
    flat = [int(i) for i in index.reshape(-1)]
    y = _select(call, x, axis, flat)
    return call.build.reshape(y, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _lookup(call: Call, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    if x.value is None or x.value.dtype != np.float32 or not indices.raw or axis:
        return indexing.take(call, x, indices, axis)
    made = Tensor((*indices.shape, *x.shape[1:]))
    return call.build.add(graph.LookupOp(call.build.name, [indices], made, x.value))


def _select(call: Call, x: Tensor, axis: int, index: list[int]) -> Tensor:
    """As a slice where the indices are evenly spaced, as a transposition of a slice's parts."""
    build = call.build
    step = index[1] - index[0] if len(index) > 1 else 1
    if not index or x.value is not None:
        return graph.constant(np.take(x.value, index, axis)) if x.value is not None else x
    if step and index == list(range(index[0], index[0] + step * len(index), step)):
        shape, starts, steps = list(x.shape), [0] * x.rank, [1] * x.rank
        shape[axis], starts[axis], steps[axis] = len(index), index[0], step
        return build.slice(x, starts, steps, shape)
    rows = next((n for n in range(2, len(index)) if index[n] - index[n - 1] != step), 0)
    columns = len(index) // rows if rows else 0
    jump = index[rows] - index[0] if rows else 0
    grid = [index[0] + i * jump + j * step for i in range(columns) for j in range(rows)]
    if step > 1 and jump == 1 and index == grid and step * rows <= x.shape[axis] - index[0]:
        # i + j * step: one axis of ``rows`` runs of ``step``, of which the first ``columns``
        run = build.part(x, axis, index[0], step * rows)
        front, back = x.shape[:axis], x.shape[axis + 1 :]
        parts = build.reshape(run, (*front, rows, step, *back))
        parts = build.part(parts, axis + 1, 0, columns)
        order = list(range(parts.rank))
        order[axis], order[axis + 1] = axis + 1, axis
        return build.reshape(build.transpose(parts, order), (*front, len(index), *back))
    made = x.like((*x.shape[:axis], len(index), *x.shape[axis + 1 :]))
    return build.add(graph.GatherOp(build.name, [build.floating(x)], made, axis, tuple(index)))


def pad(call: Call) -> Tensor:
    """A constant around; negative amounts cut."""
    x, mode = call.real(0), call.string("mode", "constant")
    amounts = call.ints(1, "pads", "pads") or []
    value = call.constant(2, "value") if call.opset >= 11 else None
    chosen = call.constant(3, "axes")
    axes = list(range(x.rank)) if chosen is None else [int(a) % x.rank for a in chosen.reshape(-1)]
    before, after = [0] * x.rank, [0] * x.rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[len(axes) + i]
    if not any(before + after):
        return x
    if mode != "constant":
        return _mirrored(call, x, mode, before, after)
    kept = [n + min(b, 0) + min(a, 0) for n, b, a in zip(x.shape, before, after, strict=True)]
    y = call.build.slice(x, [max(-b, 0) for b in before], [1] * x.rank, kept)
    front, back = [max(b, 0) for b in before], [max(a, 0) for a in after]
    if not any(front + back):
        return y
    made = tuple(n + b + a for n, b, a in zip(kept, front, back, strict=True))
    fill = float(value.reshape(())) if value is not None else call.number("value", 0.0)
    return call.build.add(graph.PadOp(call.build.name, [y], Tensor(made), tuple(front), fill))


def _mirrored(call: Call, x: Tensor, mode: str, before: list[int], after: list[int]) -> Tensor:
    """What lies around an axis is taken from it; negative amounts cut."""
    how = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}.get(mode)
    if how is None:
        raise call.refuse(f"mode {mode} is not known")
    for axis, (front, back) in enumerate(zip(before, after, strict=True)):
        around = (max(front, 0), max(back, 0))
        if how == "reflect" and max(around) >= x.shape[axis]:
            raise call.refuse(f"it reflects {max(around)} of {x.shape[axis]} elements")
        index = np.pad(np.arange(x.shape[axis]), around, mode=how)  # type: ignore[call-overload]
        kept = index[max(-front, 0) : len(index) - max(-back, 0)]
        if front or back:
            x = _select(call, x, axis, [int(i) for i in kept])
    return x


def depth_to_space(call: Call) -> Tensor:
    """Channels become pixels."""
    x, block, build = call.real(0), call.integer("blocksize", 1), call.build
    n, c, h, w = x.shape
    if call.string("mode", "DCR") == "DCR":
        y = build.reshape(x, (n, block, block, c // block**2, h, w))
        y = build.transpose(y, (0, 3, 4, 1, 5, 2))
    else:
        y = build.reshape(x, (n, c // block**2, block, block, h, w))
        y = build.transpose(y, (0, 1, 4, 2, 5, 3))
    return build.reshape(y, (n, c // block**2, h * block, w * block))


def space_to_depth(call: Call) -> Tensor:
    """Pixels become channels."""
    x, block, build = call.real(0), call.integer("blocksize", 1), call.build
    n, c, h, w = x.shape
    y = build.reshape(x, (n, c, h // block, block, w // block, block))
    by_depth = call.string("mode", "DCR") == "DCR"  # the other way came with opset 28
    y = build.transpose(y, (0, 3, 5, 1, 2, 4) if by_depth else (0, 1, 3, 5, 2, 4))
    return build.reshape(y, (n, c * block**2, h // block, w // block))


TABLE: dict[str, Importer] = {
    "Shape": shape,
    "Size": size,
    "Identity": identity,
    "Dropout": dropout,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
