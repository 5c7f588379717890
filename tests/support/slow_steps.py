"""Steps in the plainest C there is, so that engines are tested apart from the kernels."""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.emit._context import Code, Context
from prunedeploy.runtimes.sparse.plan import Conv, Copy, Reduce, View


def emitter(step):
    """A stand-in for ``prunedeploy.runtimes.sparse.emit.emitter``."""
    return {Conv: conv, Copy: copy, Reduce: reduce}[type(step)]


def conv(step: Conv, context: Context) -> Code:
    images, channels, height, width = step.x.shape
    outputs, _, tall, wide = step.weight.shape
    rows, columns = step.y.shape[2:]
    per_group, own = outputs // step.groups, channels // step.groups
    residual = f"sum += {at(step.residual, context, 'n', 'm', 'r', 'c')};" if step.residual else ""
    relu = {"identity": "", "relu": "if (sum < 0) sum = 0;"}[step.activation.op]
    body = f"""\
const float *weight = {context.constant(step.weight)}, *bias = {context.constant(step.bias)};
int begin, end;
pd_share(w, {outputs}, &begin, &end);
for (int m = begin; m < end; m++)
for (int n = 0; n < {images}; n++)
for (int r = 0; r < {rows}; r++)
for (int c = 0; c < {columns}; c++) {{
    float sum = bias[m];
    for (int k = 0; k < {own}; k++)
    for (int i = 0; i < {tall}; i++)
    for (int j = 0; j < {wide}; j++) {{
        const int y = r * {step.strides[0]} + i * {step.dilations[0]} - {step.pads[0]};
        const int x = c * {step.strides[1]} + j * {step.dilations[1]} - {step.pads[1]};
        const int g = m / {per_group} * {own} + k;
        if (y >= 0 && y < {height} && x >= 0 && x < {width})
            sum += weight[((m * {own} + k) * {tall} + i) * {wide} + j]
                 * {at(step.x, context, "n", "g", "y", "x")};
    }}
    {residual} {relu}
    {at(step.y, context, "n", "m", "r", "c")} = sum;
}}"""
    return Code(body, choice="slow")


def copy(step: Copy, context: Context) -> Code:
    assert step.fill is None
    shape = step.y.shape
    return Code(
        f"""\
int begin, end;
pd_share(w, {math.prod(shape)}, &begin, &end);
for (int i = begin; i < end; i++)
    {context.pointer(step.y)}[{place(step.y, shape)}] =
        {context.pointer(step.x)}[{place(step.x, shape)}];"""
    )


def reduce(step: Reduce, context: Context) -> Code:
    assert step.kind in ("mean", "sum")
    count = math.prod(step.x.shape[axis] for axis in step.axes)
    divisor = count if step.kind == "mean" else 1
    inner = [step.x.shape[axis] if axis in step.axes else 1 for axis in range(len(step.x.shape))]
    whole = View(step.x.buffer, tuple(inner), step.x.strides)
    return Code(
        f"""\
int begin, end;
pd_share(w, {math.prod(step.y.shape)}, &begin, &end);
for (int i = begin; i < end; i++) {{
    double sum = 0;
    const int start = {place(step.x, step.y.shape)};
    for (int k = 0; k < {count}; k++) {{
        const int i = k;
        sum += {context.pointer(step.x)}[start + {place(whole, whole.shape)}];
    }}
    {context.pointer(step.y)}[{place(step.y, step.y.shape)}] = sum / {divisor};
}}"""
    )


def at(view: View, context: Context, *indices: str) -> str:
    offset = " + ".join(f"{i} * {s}" for i, s in zip(indices, view.strides, strict=True))
    return f"{context.pointer(view)}[{offset}]"


def place(view: View, shape: tuple[int, ...]) -> str:
    """Where element ``i`` of ``shape`` in C order lies in ``view``."""
    parts, below = ["0"], 1
    for size, stride in zip(reversed(shape), reversed(view.strides), strict=True):
        if size > 1:
            parts.append(f"i / {below} % {size} * {stride}")
        below *= size
    return " + ".join(parts)
