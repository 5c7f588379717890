"""Linear layers on fewer than 16 pixels: a vector of features for each of a few samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._activation import act, bounds
from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.stored import (
    C_TYPE,
    Stored,
    index_type,
    indices_of,
    kind_of,
    stored,
)
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import UNIT
from prunedeploy.runtimes.sparse.schedule.schedule import is_direct, pixels

# The density up to which single non-zeros of one pixel beat whole rows, and how much more a further
# pixel allows (benchmarks/vectors.py). The same however weights are stored: so is the output.
SPARSE, SPARSER = 0.18, 0.01
ROWS = 4  # rows computed at once


def suits(step: Conv) -> bool:
    """Whether ``step`` is such a layer; its planes then lie packed."""
    return is_direct(step) and step.groups == 1 and pixels(step) < UNIT


def sparse_up_to(count: int) -> float:
    """Up to which density single non-zeros are faster on ``count`` pixels."""
    return SPARSE + SPARSER * (count - 1)


def emit(step: Conv, context: Context) -> Code:
    """Rows shared by the threads, in fours."""
    rows, channels = step.weight.shape[:2]
    weight, count = step.weight.reshape(rows, channels), pixels(step)
    kind = kind_of(weight)
    sparse = bool(np.count_nonzero(weight) <= sparse_up_to(count) * weight.size)
    form = Form(kind, index_type(channels))
    compute = (_sparse if sparse else _dense)(weight, count, form, context)
    turned = channels * count if not sparse and count > 1 else 0
    residual = "0" if step.residual is None else context.pointer(step.residual)
    body = f"""\
const float *x = {context.pointer(step.x)}, *other = {residual};
const float *bias = {context.constant(step.bias.astype(np.float32))};
float *y = {context.pointer(step.y)};
int begin, end;
(void)other;
pd_share(w, {-(-rows // ROWS)}, &begin, &end);
{f"x = pd_narrow_turn(w->scratch, x, {channels}, {count});" if turned else ""}
for (int row = begin * {ROWS}; row < end * {ROWS} && row < {rows}; row += {ROWS}) {{
    const int count = {rows} - row < {ROWS} ? {rows} - row : {ROWS};
    float sums[{ROWS}][PD_UNIT];
    {compute}
    for (int r = 0; r < count; r++)
        for (int j = 0; j < {count}; j++) {{
            float s = sums[r][j] + bias[row + r];
            {f"s += other[(row + r) * {count} + j];" if step.residual else ""}
            {_activate(step)}
            y[(row + r) * {count} + j] = s;
        }}
}}"""
    headers = ("functions.h",) if act(step) else ()
    choice = f"vector {'rows' if sparse else 'dense'} {kind}"
    return Code(
        *(body, (form.instance(),), headers, turned, choice),
        kernel="vector",
        stored=kind,
        dense=not sparse,
    )


def _activate(step: Conv) -> str:
    function, (low, high) = act(step), bounds(step)
    if function:
        return f"pd_vec v = pd_splat(s); pd_vec t = {function}; memcpy(&s, &t, sizeof s);"
    return f"s = s < {low} ? {low} : s; s = s > {high} ? {high} : s;"


@dataclass(frozen=True)
class Form:
    """How a layer's weights and their columns are stored, and the functions that read them."""

    kind: Stored
    column: str

    def function(self, name: str) -> str:
        """A name of its own for each form."""
        return f"pd_narrow_{name}_{self.kind}_{self.column.removesuffix('_t')}"

    def instance(self) -> str:
        """The text that makes them of the template."""
        settings = {"KIND": self.kind, "STORED": C_TYPE[self.kind], "COLUMN": self.column}
        settings |= {name.upper(): self.function(name) for name in ("dots", "sparse")}
        lines = [f"#define PD_{key} {value}" for key, value in settings.items()]
        return "\n".join([*lines, '#include "narrow.h"'])


def _sparse(weight: Array, count: int, form: Form, context: Context) -> str:
    rows, columns = np.nonzero(weight)
    ends = np.cumsum(np.bincount(rows, minlength=weight.shape[0])).astype(np.uint32)
    values = context.constant(stored(weight[rows, columns], form.kind))
    indices = context.constant(indices_of(columns, weight.shape[1]))
    return (
        f"for (int r = 0; r < count; r++) {form.function('sparse')}(sums[r], {values}, "
        f"{indices}, {context.constant(ends)}, row + r, x, {count});"
    )


def _dense(weight: Array, count: int, form: Form, context: Context) -> str:
    channels = weight.shape[1]
    values = f"{context.constant(stored(weight, form.kind))} + (uint64_t)row * {channels}"
    return f"{form.function('dots')}(sums, {values}, x, {channels}, count, {count});"
