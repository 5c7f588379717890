"""Linear layers on fewer than 16 pixels: a vector of features for each of a few samples."""

from __future__ import annotations

import numpy as np

from prunedeploy.runtimes.sparse.emit._activation import act, bounds
from prunedeploy.runtimes.sparse.emit._context import Code, Context
from prunedeploy.runtimes.sparse.plan import UNIT, Conv
from prunedeploy.runtimes.sparse.tiling import is_direct, pixels
from prunedeploy.types import Array

SPARSE = 0.35  # density up to which single non-zeros beat whole rows
ROWS = 4  # rows computed at once


def suits(step: Conv) -> bool:
    """Whether ``step`` is such a layer; its planes then lie packed."""
    return is_direct(step) and step.groups == 1 and pixels(step) < UNIT


def emit(step: Conv, context: Context) -> Code:
    """Rows shared by the threads, in fours."""
    density = np.count_nonzero(step.weight) / max(step.weight.size, 1)
    sparse = bool(density <= SPARSE)
    rows, channels = step.weight.shape[:2]
    weight = step.weight.reshape(rows, channels)
    compute = (_sparse if sparse else _dense)(weight, pixels(step), context)
    residual = "0" if step.residual is None else context.pointer(step.residual)
    low, high = bounds(step)
    function = act(step)
    one = (
        "pd_vec v = pd_splat(s); pd_vec t = " + function + "; memcpy(&s, &t, sizeof s);"
        if function
        else (f"s = s < {low} ? {low} : s; s = s > {high} ? {high} : s;")
    )
    body = f"""\
const float *x = {context.pointer(step.x)}, *other = {residual};
const float *bias = {context.constant(step.bias.astype(np.float32))};
float *y = {context.pointer(step.y)};
int begin, end;
(void)other;
pd_share(w, {-(-rows // ROWS)}, &begin, &end);
for (int row = begin * {ROWS}; row < end * {ROWS} && row < {rows}; row += {ROWS}) {{
    const int count = {rows} - row < {ROWS} ? {rows} - row : {ROWS};
    float sums[{ROWS} * PD_UNIT];
    {compute}
    for (int r = 0; r < count; r++)
        for (int j = 0; j < {pixels(step)}; j++) {{
            float s = sums[r * {_row_pitch(sparse, step)} + j] + bias[row + r];
            {"s += other[(row + r) * " + str(pixels(step)) + " + j];" if step.residual else ""}
            {one}
            y[(row + r) * {pixels(step)} + j] = s;
        }}
}}"""
    return Code(body, (), ("functions.h", "narrow.h") if function else ("narrow.h",))


def _row_pitch(sparse: bool, step: Conv) -> int:
    return UNIT if sparse or pixels(step) > 1 else 1


def _sparse(weight: Array, count: int, context: Context) -> str:
    rows, columns = np.nonzero(weight)
    ends = np.cumsum(np.bincount(rows, minlength=weight.shape[0])).astype(np.uint32)
    values = context.constant(weight[rows, columns].astype(np.float32))
    indices = context.constant(columns.astype(np.uint32))
    return (
        f"for (int r = 0; r < count; r++) pd_narrow_sparse(sums + r * PD_UNIT, {values}, "
        f"{indices}, {context.constant(ends)}, row + r, x, {count});"
    )


def _dense(weight: Array, count: int, context: Context) -> str:
    rows, channels = weight.shape
    if count == 1:
        values = context.constant(weight.astype(np.float32))
        return f"pd_dots(sums, {values} + (uint64_t)row * {channels}, x, {channels}, count);"
    padded = np.zeros((-(-rows // ROWS) * ROWS, channels), np.float32)
    padded[:rows] = weight
    values = context.constant(padded.reshape(-1, ROWS, channels).swapaxes(1, 2))
    return f"pd_narrow_dense(sums, {values} + (uint64_t)row * {channels}, x, {channels}, {count});"
