"""Copies: rows, transpositions, anything else; borders; conversions."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest
from prunedeploy.runtimes.sparse.plan.steps import Copy
from prunedeploy.runtimes.sparse.plan.views import Dtype

# by the NumPy names of the caller's types
CONVERSIONS = {
    "float32": ("float", "FLOAT"), "int64": ("int64_t", "INT64"), "int32": ("int32_t", "INT32"),
    "bool": ("uint8_t", "BOOL"), "uint8": ("uint8_t", "UINT8"),
}  # fmt: skip


def emit(step: Copy, context: Context) -> Code:
    """One call, by how the innermost loop lies in ``x`` and ``y``."""
    if step.fill is not None and step.outer is not None:
        return _pad(step, context)
    loops = nest(step.y.shape, (step.y.strides, step.x.strides))
    x, y = context.pointer(step.x), context.pointer(step.y)
    buffers = [context.plan.buffers[view.buffer] for view in (step.x, step.y)]
    if all(buffer.space == "arena" and buffer.dtype == "uint8" for buffer in buffers):
        return _bytes(loops, x, y)
    return copy(loops, x, y, *(buffer.dtype for buffer in buffers))


def _bytes(loops: Nest, x: str, y: str) -> Code:
    """Quantised tensors are bytes in the arena too."""
    if not loops.rank:
        loops = Nest((1,), ((1,), (1,)))
    y_step, x_step = loops.inner()
    top = "PD_COPY(pd_copy_bytes, uint8_t, uint8_t, PD_AS_UINT8)"
    steps = f"{loops.shape[-1]}, (ptrdiff_t){x_step}, (ptrdiff_t){y_step}"
    outer = loops.take(range(loops.rank - 1))
    return _call(outer, "pd_copy_bytes", steps, x, y, (top,), "bytes")


def copy(
    loops: Nest, x: str, y: str, from_type: Dtype = "float32", to_type: Dtype = "float32"
) -> Code:
    """Copy ``x`` to ``y``, C pointers; ``loops`` has the strides of ``y``, then those of ``x``."""
    if not loops.rank:  # one element
        loops = Nest((1,), ((1,), (1,)))
    last = loops.rank - 1
    y_step, x_step = loops.inner()
    count = loops.shape[last]
    if (from_type, to_type) != ("float32", "float32"):
        name = f"pd_copy_{from_type}_to_{to_type}"
        (source, _), (target, how) = CONVERSIONS[from_type], CONVERSIONS[to_type]
        top = f"PD_COPY({name}, {source}, {target}, PD_AS_{how})"
        steps = f"{count}, (ptrdiff_t){x_step}, (ptrdiff_t){y_step}"
        return _call(loops.take(range(last)), name, steps, x, y, (top,), "convert")
    if y_step == 1 and x_step in (0, 1):
        outer = loops.take(range(last))
        return _call(outer, "pd_copy_rows", f"{count}, {x_step}", x, y, choice="rows")
    across = [axis for axis in range(last) if loops.strides[1][axis] == 1]
    if y_step == 1 and across:
        axis = max(across, key=lambda a: loops.shape[a])
        outer = loops.take(a for a in range(last) if a != axis)
        size = f"{loops.shape[axis]}, {count}, {x_step}, {loops.strides[0][axis]}"
        return _call(outer, "pd_copy_transposed", size, x, y, choice="transpose")
    name = "pd_copy_float_to_float"
    steps = f"{count}, (ptrdiff_t){x_step}, (ptrdiff_t){y_step}"
    top = f"PD_COPY({name}, float, float, PD_AS_FLOAT)"
    return _call(loops.take(range(last)), name, steps, x, y, (top,), "strided")


def _call(
    outer: Nest, name: str, size: str, x: str, y: str, top: tuple[str, ...] = (), choice: str = ""
) -> Code:
    call = f"{name}(w, {outer.rank}, shape, xs, ys, {size}, {x}, {y});"
    body = [*outer.arrays("shape", "ys", "xs"), call]
    return Code("\n".join(body), top, ("copy.h",), choice=choice)


def _pad(step: Copy, context: Context) -> Code:
    """Rows of the outer tensor, of which ``y`` is a box."""
    assert step.outer is not None
    assert step.fill is not None
    outer, y = step.outer, step.y
    if not y.size:
        box = nest(outer.shape, (outer.strides, (0,) * len(outer.shape)))
        where = context.pointer(outer)
        value = f"static const float fill = {literal(step.fill)};"
        filled = copy(box, "&fill", where)
        return Code(f"{value}\n{filled.body}", filled.top, filled.headers, choice="fill")
    corner = _corner(step)
    axes = [a for a, size in enumerate(outer.shape) if size > 1] or [0]
    axes.sort(key=lambda a: -outer.strides[a])
    values = {
        "outer": [outer.shape[a] for a in axes],
        "corner": [corner[a] for a in axes],
        "box": [y.shape[a] for a in axes],
    }
    body = [
        f"static const int {name}[] = {{{', '.join(map(str, numbers))}}};"
        for name, numbers in values.items()
    ]
    body += [
        f"static const ptrdiff_t {name}[] = {{{', '.join(str(view.strides[a]) for a in axes)}}};"
        for name, view in (("xs", step.x), ("ys", outer))
    ]
    body.append(
        f"pd_copy_into(w, {len(axes)}, outer, corner, box, xs, ys, {literal(step.fill)}, "
        f"{context.pointer(step.x)}, {context.pointer(outer)});"
    )
    return Code("\n".join(body), (), ("copy.h",), choice="pad")


def _corner(step: Copy) -> list[int]:
    """Where in ``outer`` the first element of ``y`` lies, an index an axis."""
    outer, y = step.outer, step.y
    assert outer is not None
    assert outer.buffer == y.buffer
    assert len(outer.shape) == len(y.shape)
    rest, corner = y.offset - outer.offset, [0] * len(outer.shape)
    for axis in sorted(range(len(corner)), key=lambda a: -outer.strides[a]):
        if outer.shape[axis] > 1:
            assert y.shape[axis] == 1 or y.strides[axis] == outer.strides[axis], step
            # the axes inside reach less far than one step of this one
            corner[axis] = rest // outer.strides[axis]
            rest -= corner[axis] * outer.strides[axis]
    assert rest == 0, step
    return corner
